"""KolektorSDD and KolektorSDD2: every image has a mask beside it, and a mask without a pixel means that it is normal.

    KolektorSDD    <folder>/kos01/Part0.jpg + Part0_label.bmp
    KolektorSDD2   <folder>/train/10000.png + 10000_GT.png, <folder>/test/…

The one source whose labels need pixels: its masks are decoded when it is listed. A mask that cannot be read leaves its
image anomalous, and the import refuses it by name.

Tabernik et al., JIM 2020; Božič et al., Computers in Industry 2021.
"""

from __future__ import annotations

from pathlib import Path

from shadowline.core.params import ClassParams
from shadowline.data.images import ImageLimits, RefusedImage, read_mask
from shadowline.data.labels import Label
from shadowline.data.sources.image_tree import PlacedFile, read_tree
from shadowline.data.sources.mask_files import masks_beside
from shadowline.data.sources.source_image import Listing, SourceFolder, SourceImage, class_folder

DEFECT = "defect"  # the only kind
_LIMITS = ImageLimits(max_pixels=50_000_000, max_file_bytes=64 << 20)  # of a mask, while it is listed


def list_images(class_name: str, params: ClassParams, root: Path) -> Listing:
    """Raises ValueError where no image has a mask beside it."""
    source = class_folder(class_name, params, root)
    tree = read_tree(source)
    image_of = masks_beside(tree.images)
    if not image_of:
        raise ValueError(
            f"class '{class_name}': no image in {source.folder} has a mask beside it, such as 10000.png and "
            f"10000_GT.png; correct classes.{class_name}.source or its location"
        )
    masked = {image.path: mask for mask, image in image_of.items()}
    images = [_image(image, masked[image.path], source) for image in tree.images if image.path in masked]
    alone = [file.path for file in tree.images if file.path not in masked and file.path not in image_of]
    left_out = {
        "a file of the system": tree.skipped,
        "beside the folders of images": tree.outside,
        "an image without a mask": tuple(alone),
    }
    return Listing(tuple(images), {reason: paths for reason, paths in left_out.items() if paths})


def _image(image: PlacedFile, mask: Path, source: SourceFolder) -> SourceImage:
    read = source.reader(mask)
    try:
        is_normal = not read_mask(read(_LIMITS.max_file_bytes + 1), _LIMITS, name=mask.name).any()
    except RefusedImage:
        is_normal = False
    return SourceImage(
        name=source.name(image.path),
        label=Label.NORMAL if is_normal else Label.ANOMALOUS,
        defect_type="" if is_normal else DEFECT,
        split_hint=image.split,
        read=source.reader(image.path),
        read_masks=() if is_normal else (read,),
    )
