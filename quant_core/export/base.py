"""What an exporter is: a recipe and a model in, a folder that a runtime reads out, and the same folder read back.

``check`` says what is in the way before anything is written (it reads ``quant_core.targets`` alone, so that pages ask
it too), ``write`` streams the tensors of a ``Source`` into a folder, and ``read_back`` gives every quantized matrix as
its runtime would compute it, by code apart from what packs. What was written is compared with what was simulated before
the folder gets its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from quant_core.errors import ExportError
from quant_core.export.source import Entry, Plain, Rounded, Source
from quant_core.export.staging import Shards, copy_small, write_json
from quant_core.registry import Registry


class Exporter(ABC):
    """Writes and reads one runtime's files. Its name is that of its target, which says what it can hold."""

    name: str
    """Of the exporter, and of its ``quant_core.targets.Target``."""

    @abstractmethod
    def write(self, source: Source, folder: Path, keep: Check) -> None:
        """Write all files into an empty folder; hand every ``Rounded`` to ``keep`` as it goes by."""

    @abstractmethod
    def read_back(self, folder: Path) -> Iterator[tuple[str, Tensor]]:
        """Every quantized matrix (rows, columns) in float32 with its key (``key``), in any order.

        Raises:
            ExportError: A file is damaged, or is not what this exporter writes.
        """

    def notes(self, source: Source) -> tuple[str, ...]:
        """What the user should know of what was written, a sentence each."""
        return ()


def key(entry: Entry) -> str:
    """What names a matrix for the comparison: the stored name, and which expert where one tensor holds several."""
    return entry.name if entry.expert is None else f"{entry.name}[{entry.expert}]"


class Check(ABC):
    """Takes note of what was simulated, for the comparison with what is read back."""

    @abstractmethod
    def keep(self, name: str, matrix: Tensor) -> None:
        """Remember float32 ``matrix`` (rows, columns) under its ``key``, not by copying it."""


class SafetensorsExporter(Exporter):
    """An exporter whose files are a Hugging Face checkpoint: ``config.json``, safetensors, tokenizer."""

    def write(self, source: Source, folder: Path, keep: Check) -> None:
        """Stream every tensor, packed or as it is, then the configuration.

        Raises:
            ExportError: The recipe changes nothing, or the checkpoint holds several quantized experts in one tensor:
                a layer is quantized by its name here.
        """
        if not source.entries:
            raise ExportError(
                "The recipe leaves every weight as it is: there is nothing to pack.",
                "Use the original checkpoint.",
            )
        if any(entry.expert is not None for entry in source.entries):
            raise ExportError(
                f"The checkpoint stores all experts of a block as one tensor, which {self.name} files cannot hold.",
                "Keep the experts as they are in the recipe.",
            )
        shards = Shards(folder, metadata=self.metadata(source))
        for tensor in source.tensors():
            if isinstance(tensor, Plain):
                shards.add({tensor.name: tensor.values})
            else:
                keep.keep(key(tensor.entry), tensor.matrix)
                shards.add(self.pack(tensor, source))
        shards.close()
        write_json(folder / "config.json", self.config(source))
        copy_small(source.checkpoint.folder, folder)

    def metadata(self, source: Source) -> Mapping[str, str]:
        """What the header of every file says."""
        return {}

    @abstractmethod
    def pack(self, rounded: Rounded, source: Source) -> Mapping[str, Tensor]:
        """The stored tensors of a quantized matrix, by full name."""

    @abstractmethod
    def config(self, source: Source) -> dict[str, Any]:
        """``config.json``, with what tells a reader how weights are quantized."""


EXPORTERS: Registry[Exporter] = Registry("exporter")


def register(exporter: Exporter) -> Exporter:
    """Add an exporter to the registry under its name."""
    return EXPORTERS.add(exporter.name, exporter)
