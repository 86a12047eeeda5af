"""Images of a product that is being enrolled, one a request: into the inbox, from where the enrolment takes them.

POST /v1/classes/{class_name}/images    multipart: image, kind? (good, or the name of a defect) → counts of the inbox
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.data.images import RefusedImage
from shadowline.data.sources.source_image import GOOD
from shadowline.enrolment.inbox import Inbox
from shadowline.enrolment.policy import choose_phase, missing_images
from shadowline.gateway.errors import RefusedRequestError
from shadowline.gateway.schemas import IntakeAnswer
from shadowline.gateway.uploads import Upload, refusal_of


class IntakeForm(BaseModel):
    """The field beside the image."""

    model_config = ConfigDict(extra="forbid")

    kind: str = Field(GOOD, max_length=64, description=f"`{GOOD}`, or the name of the defect")


def take_image(class_name: str, upload: Upload[IntakeForm], params: Params, layout: Layout) -> IntakeAnswer:
    """Store the image; the same image again changes nothing. Raises RefusedRequestError, with nothing stored."""
    try:
        inbox = Inbox(layout.inbox, class_name)
        if inbox.stock.num_images >= params.gateway.max_inbox_images:
            raise RefusedRequestError(507, f"class '{class_name}': the inbox is full; enrol the class, or empty it")
        is_new = inbox.put(upload.data, upload.form.kind, params.data, "image") is not None
    except RefusedImage as refused:
        raise refusal_of(refused) from None
    except ValueError as error:
        raise RefusedRequestError(422, str(error)) from None
    stock = inbox.stock
    num_normal = len(stock.normals)
    return IntakeAnswer(
        class_name=class_name,
        new=is_new,
        num_normal=num_normal,
        num_defects=len(stock.defects),
        phase=choose_phase(num_normal, params.enrolment),
        missing=missing_images(num_normal, params.enrolment),
    )
