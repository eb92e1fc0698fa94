"""Looking at a hub model and downloading it, against a hub on this machine: resumed, broken, cancelled, refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quant_core.errors import Cancelled, ModelError
from quant_core.hub_files import blob, bytes_here, part
from quant_core.models.hub import download, look
from quant_core.models.sources import locate
from quant_core.schema import DownloadRequest, HubFile, HubModel, LookRequest, ModelRef
from tests.fake_hub import COMMIT, SOURCE, FakeHub, served
from tests.tiny import FakeContext

WEIGHTS = bytes(range(256)) * 4096
FILES = {"config.json": b'{"model_type": "llama"}', "model.safetensors": WEIGHTS, "README.md": b"# Tiny"}


class Watching(FakeContext):
    """Cancels once a condition holds."""

    def __init__(self, until: Callable[[], bool]) -> None:
        super().__init__()
        self.until = until

    def progress(self, fraction: float, message: str = "") -> None:
        super().progress(fraction, message)
        if self.until():
            raise Cancelled("The job was cancelled.")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    made = FakeHub(dict(FILES))
    with served(made, tmp_path / "hub", monkeypatch):
        yield made


def looked() -> HubModel:
    return look(FakeContext(), LookRequest(SOURCE))


def wanted(found: HubModel) -> DownloadRequest:
    return DownloadRequest(SOURCE, "", found.commit, found.files)


def test_what_the_hub_says_before_anything_is_downloaded(hub: FakeHub) -> None:
    found = looked()
    sizes = {file.name: file.bytes for file in found.files}
    assert sizes == {"config.json": 23, "model.safetensors": len(WEIGHTS)}, "a README is not needed"
    assert found.bytes == 23 + len(WEIGHTS)
    assert (found.commit, found.licence, found.gated) == (COMMIT, "apache-2.0", False)
    assert found.parameters == {"BF16": 1000}
    assert not found.problem
    assert not hub.sent
    assert bytes_here(SOURCE, found.files) == 0


def test_what_cannot_be_opened_is_said_before_the_download(hub: FakeHub) -> None:
    hub.config = {"quantization_config": {"quant_method": "gptq"}}
    assert "already quantized" in looked().problem
    del hub.files["model.safetensors"]
    hub.files["pytorch_model.bin"] = b"x"
    assert "only pickle weights" in looked().problem


def test_a_download_is_complete_and_opens_without_another(hub: FakeHub) -> None:
    context = FakeContext()
    done = download(context, wanted(looked()))
    assert done.bytes == 23 + len(WEIGHTS)
    assert context.fractions[-1] == 1.0
    assert sorted(hub.sent) == [("config.json", 0), ("model.safetensors", 0)]
    folder = locate(ModelRef(SOURCE))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert len(hub.sent) == 2
    download(context, wanted(looked()))
    assert len(hub.sent) == 2, "what is there is not fetched again"


def test_a_cancelled_download_goes_on_where_it_was(hub: FakeHub) -> None:
    """Nothing comes any more when it is cancelled, and it ends all the same: the hub would go on after 20 seconds."""
    request = wanted(looked())
    weights = next(file for file in request.files if file.name == "model.safetensors")
    hub.stall_at = 600_000

    def enough() -> bool:
        return part(SOURCE, weights).exists() and part(SOURCE, weights).stat().st_size == 600_000

    with pytest.raises(Cancelled):
        download(Watching(enough), request)
    assert not hub.going.is_set()
    assert bytes_here(SOURCE, request.files) == 23 + 600_000
    hub.stall_at = -1
    context = FakeContext()
    download(context, request)
    assert hub.sent[-1] == ("model.safetensors", 600_000)
    assert context.fractions[0] > 0.5, "the bar begins where it was left"
    assert blob(SOURCE, weights).read_bytes() == WEIGHTS


def test_a_connection_that_breaks_is_made_anew(hub: FakeHub) -> None:
    hub.break_at = 300_000
    download(FakeContext(), wanted(looked()))
    assert [start for name, start in hub.sent if name == "model.safetensors"] == [0, 300_000]


def test_a_file_that_is_not_what_was_promised_is_thrown_away(hub: FakeHub) -> None:
    request = wanted(looked())
    hub.files["model.safetensors"] = WEIGHTS[::-1]
    with pytest.raises(ModelError, match="is not what the hub says it is"):
        download(FakeContext(), request)
    assert bytes_here(SOURCE, request.files) == 23


def test_a_disk_that_is_too_small_is_told_first(hub: FakeHub) -> None:
    huge = HubFile("model.safetensors", 10**18, hashlib.sha256(b"").hexdigest())
    with pytest.raises(ModelError, match="more on the disk"):
        download(FakeContext(), DownloadRequest(SOURCE, "", COMMIT, (huge,)))
    assert not hub.sent


@pytest.mark.parametrize("name", ["../../evil", "main", ""])
def test_contents_that_are_no_hashes_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="names no hash"):
        blob(SOURCE, HubFile("config.json", 3, name))


def test_a_model_that_is_not_there_is_one_sentence(hub: FakeHub) -> None:
    with pytest.raises(ModelError, match="no hub model 'lab/gone'"):
        look(FakeContext(), LookRequest("lab/gone"))


def test_a_hub_out_of_reach_is_one_sentence(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="the hub cannot be reached") as caught:
        looked()
    assert "network" in caught.value.hint
