"""What every fusion asks of its input."""

from collections.abc import Mapping

from fusionjax.encoders import Features


def check_modalities(features: Mapping[str, Features], *, needed: str | None = None, least: int = 1) -> None:
    """Checks that modalities came, that one of them is the needed one and that they are of one batch.

    Args:
        features: of each modality, by name.
        needed: the name of a modality that must be there.
        least: how many modalities there must be.

    Raises:
        ValueError: no modality or too few, the needed one missing, or different batch sizes.
    """
    if not features:
        raise ValueError("a fusion needs the features of at least one modality; got none. Pass {name: Features}.")
    if needed is not None and needed not in features:
        raise ValueError(
            f"this fusion needs the modality {needed!r}; got {', '.join(sorted(features))}. Rename it or set the field."
        )
    if len(features) < least:
        raise ValueError(
            f"this fusion joins at least {least} modalities; got {', '.join(sorted(features))} alone. Add one."
        )
    sizes = {name: value.pooled.shape[0] for name, value in features.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"all modalities must have the same batch size; got {sizes}. Batch them together.")
