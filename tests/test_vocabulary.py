"""The three verdicts, on tiny tokenizers and on the real cases."""

import importlib.resources
import json
import shutil

import pytest
from conftest import PHI3

import check_vocab_compatibility
from check_vocab_compatibility import compare
from specdec import models
from specdec.vocabulary import named_tokens, vocabulary_map


def test_identical(tiny, cli):
    status, out, _ = cli(check_vocab_compatibility, "--draft", tiny.draft, "--verifier", tiny.verifier, "--json", "-")
    report = json.loads(out)
    assert status == 0 and report["verdict"] == "identical" and report["ids_that_differ"] == 0
    assert report["logits_rows"] == {"draft": 300, "verifier": 300}


def test_intersection_writes_every_token(tiny, cli):
    status, out, _ = cli(check_vocab_compatibility, "--draft", tiny.draft, "--verifier", tiny.overlapping)
    assert status == 0 and "intersection" in out and "without a token" in out
    draft, verifier = (models.load_tokenizer(models.Model(path)) for path in (tiny.draft, tiny.overlapping))
    shared = vocabulary_map(draft, verifier)
    by_id = {id: token for token, id in draft.get_vocab().items()}
    for token, id in verifier.get_vocab().items():
        assert "".join(by_id[piece] for piece in shared.in_draft_ids(id)) == token
    for draft_id, verifier_id in zip(shared.draft_ids, shared.verifier_ids, strict=True):
        assert by_id[draft_id] == verifier.convert_ids_to_tokens(verifier_id)


def test_incompatible_exits_1(tiny, cli, tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({f"word{number}": number for number in range(20)}, unk_token="word0"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    status, out, _ = cli(check_vocab_compatibility, "--draft", tiny.draft, "--verifier", tmp_path)
    assert status == 1 and "incompatible" in out


@pytest.mark.skipif(not PHI3.is_dir(), reason="the real Phi-3 tokenizers are not beside this checkout")
def test_phi3_mini_and_medium():
    report = compare(*(models.load_tokenizer(models.Model(str(PHI3 / size))) for size in ("mini", "medium")), (32064, 32064))
    assert report["verdict"] == "identical"
    assert report["tokens"] == {"draft": 32011, "verifier": 32011}
    assert report["rows_without_a_token"] == {"draft": 53, "verifier": 53}
    assert report["added_tokens_that_differ"] == [] and report["chat_templates"] == "differ"


@pytest.mark.skipif(not PHI3.is_dir(), reason="the real Phi-3 tokenizers are not beside this checkout")
def test_phi3_mini_and_mistral(tmp_path):
    """The study prints 991 mismatches. A full comparison finds 31,730; every 32nd id gives exactly 991 of 1000."""
    pytest.importorskip("mistral_common")
    pytest.importorskip("google.protobuf")
    file = importlib.resources.files("mistral_common") / "data" / "tokenizer.model.v1"
    shutil.copy(str(file), tmp_path / "tokenizer.model")
    from transformers import LlamaTokenizer

    mini, mistral = models.load_tokenizer(models.Model(str(PHI3 / "mini"))), LlamaTokenizer.from_pretrained(tmp_path)
    by_id = [{id: token for token, id in named_tokens(tokenizer).items()} for tokenizer in (mini, mistral)]
    differ = [id for id in range(32000) if by_id[0].get(id) != by_id[1].get(id)]
    report = compare(mini, mistral)
    assert len(differ) == 31_730 and report["shared_strings"] == 24_184 and report["verdict"] == "intersection"
    assert sum(id % 32 == 0 for id in differ) == 991
