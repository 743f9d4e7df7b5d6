"""All architectures whose weights can be read and written, in the order in which weights are recognised."""

from fusionjax.pretrained.alexnet import ALEXNET_TORCHVISION
from fusionjax.pretrained.architecture import Architecture
from fusionjax.pretrained.bert import (
    BERT_FIRST_TRANSFORMERS,
    BERT_PRETRAINING_TRANSFORMERS,
    BERT_TRANSFORMERS,
    SENTENCE_BERT_TRANSFORMERS,
)
from fusionjax.pretrained.blip import BLIP_TRANSFORMERS
from fusionjax.pretrained.clip import CLIP_TRANSFORMERS
from fusionjax.pretrained.convnext import CONVNEXT_TIMM, CONVNEXT_TORCHVISION, CONVNEXT_TRANSFORMERS
from fusionjax.pretrained.efficientnet_lite import EFFICIENTNET_LITE_ORIGINAL, EFFICIENTNET_LITE_TIMM
from fusionjax.pretrained.resnet import RESNET_TORCHVISION, RESNET_TRANSFORMERS
from fusionjax.pretrained.siglip import SIGLIP_TRANSFORMERS
from fusionjax.pretrained.vgg import VGG_TORCHVISION
from fusionjax.pretrained.vit import VIT_TIMM, VIT_TORCHVISION, VIT_TORCHVISION_FILES, VIT_TRANSFORMERS

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
    VIT_TIMM,
    VIT_TORCHVISION,
    VIT_TORCHVISION_FILES,
    VIT_TRANSFORMERS,
    BERT_TRANSFORMERS,
    BERT_PRETRAINING_TRANSFORMERS,
    BERT_FIRST_TRANSFORMERS,
    # The same tensors as a BERT's: by name, or by a folder of sentence-transformers that says so.
    SENTENCE_BERT_TRANSFORMERS,
    CLIP_TRANSFORMERS,
    SIGLIP_TRANSFORMERS,
    BLIP_TRANSFORMERS,
)
