"""All architectures whose weights can be read and written, in the order in which weights are recognised."""

from fusionjax.pretrained.alexnet import ALEXNET_TORCHVISION
from fusionjax.pretrained.architecture import Architecture
from fusionjax.pretrained.convnext import CONVNEXT_TIMM, CONVNEXT_TORCHVISION, CONVNEXT_TRANSFORMERS
from fusionjax.pretrained.efficientnet_lite import EFFICIENTNET_LITE_ORIGINAL, EFFICIENTNET_LITE_TIMM
from fusionjax.pretrained.resnet import RESNET_TORCHVISION, RESNET_TRANSFORMERS
from fusionjax.pretrained.vgg import VGG_TORCHVISION

ARCHITECTURES: tuple[Architecture, ...] = (
    ALEXNET_TORCHVISION,
    VGG_TORCHVISION,
    RESNET_TORCHVISION,
    RESNET_TRANSFORMERS,
    EFFICIENTNET_LITE_ORIGINAL,
    EFFICIENTNET_LITE_TIMM,
    CONVNEXT_TORCHVISION,
    CONVNEXT_TIMM,
    CONVNEXT_TRANSFORMERS,
)
