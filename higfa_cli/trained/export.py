"""`higfa export`: a trained classifier as files for use elsewhere."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from higfa_cli.artifacts.atomic import write_bytes, write_json
from higfa_cli.errors import UserError
from higfa_cli.models.classifier import Classifier, load_classifier

_TOLERANCE = 1e-4


class Probabilities(nn.Module):
    """What the ONNX file computes: pictures [B, 3, S, S] in [0, 1] -> probabilities [B, K]."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Softmax of logits / temperature."""
        return self.classifier.logits(images * 2.0 - 1.0).softmax(1)


def export(
    model_path: Path, out: Path, format: Literal["safetensors", "onnx"] = "safetensors"
) -> dict[str, object]:
    """Write the model, labels.json and preprocessing.json into the folder `out`.

    safetensors: the checkpoint as it is. onnx: input `images` float32 [B, 3, S, S], RGB in
    [0, 1], normalised inside; output `probabilities` [B, K]; B is free. Where onnxruntime is
    installed the file is run and compared with torch to 1e-4 before it is written.

    Raises UserError: unusable checkpoint, missing ONNX packages, or a file that disagrees.
    """
    if format not in ("safetensors", "onnx"):
        raise UserError(f"format `{format}` is unknown; use safetensors or onnx", exit_code=2)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give a folder to export to", exit_code=2)
    classifier = load_classifier(Path(model_path))
    if format == "onnx":
        data = _onnx(classifier)
        difference = _compare(classifier, data)
    else:
        data, difference = Path(model_path).read_bytes(), None
    written = [out / f"model.{format}", out / "labels.json", out / "preprocessing.json"]
    write_bytes(written[0], data)
    write_json(written[1], list(classifier.spec.classes))
    write_json(written[2], _preprocessing(classifier, format))
    result: dict[str, object] = {"format": format, "files": [str(path) for path in written]}
    if format == "onnx":
        result["largest_difference_from_torch"] = difference
    return result


def _preprocessing(classifier: Classifier, format: str) -> dict[str, object]:
    spec = asdict(classifier.spec)
    spec.pop("classes")
    inside = format == "onnx"
    return spec | {
        "read": "upright as EXIF says, transparency over white, 8-bit RGB",
        "crop": "the lowest crop_bottom rows are cut off, before anything else; boxes: then all "
        "but the box of the subject",
        "resize": "longer side to image_size, aspect kept, antialiased bicubic",
        "pad": "centred in a square, border pixels repeated",
        "colour": "RGB, divided by 255",
        "normalisation": "inside the model" if inside else "subtract mean, divide by std",
        "temperature_applied": "inside the model" if inside else "divide the logits by it",
        "labels": "labels.json: the class of every output, in order",
    }


def _example(classifier: Classifier, count: int) -> Tensor:
    size = classifier.spec.image_size
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))


def _onnx(classifier: Classifier) -> bytes:
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f'ONNX export needs {package}: pip install "higfa[onnx]"')
    # The exporter reports its stages on stdout, where the command's own result belongs.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                Probabilities(classifier).eval(),
                (_example(classifier, 2),),
                input_names=["images"],
                output_names=["probabilities"],
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise UserError(
                f"{classifier.spec.backbone} cannot be written as ONNX "
                f"({str(error).strip().splitlines()[0]}); use --format safetensors"
            ) from error
    assert program is not None
    data: bytes = program.model_proto.SerializeToString()
    return data


def _compare(classifier: Classifier, data: bytes) -> float | None:
    """Largest difference of probabilities from torch, for batches of 1 and 3."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    largest = 0.0
    for count in (1, 3):
        images = _example(classifier, count)
        with torch.no_grad():
            wanted = Probabilities(classifier)(images).numpy()
        (got,) = session.run(None, {"images": images.numpy()})
        largest = max(largest, float(np.abs(got - wanted).max()))
    if not largest <= _TOLERANCE:
        raise UserError(
            f"the ONNX model differs from the checkpoint by {largest:.2g} in probability; "
            "use --format safetensors"
        )
    return largest
