"""The ground the project stands on: what it installs, how it looks, what it must never contain."""

from __future__ import annotations

import ast
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from streamlit import config as streamlit_config

ROOT = Path(__file__).resolve().parents[1]
CONFIG = tomllib.loads((ROOT / ".streamlit/config.toml").read_text(encoding="utf-8"))
MODES = ("light", "dark")

Array = npt.NDArray[np.float64]

# ---------------------------------------------------------------------------------------------------- colours

# Machado, Oliveira, Fernandes: "A Physiologically-based Model for Simulation of Color Vision Deficiency",
# IEEE TVCG 15(6), 2009, at full severity; rows give linear R, G and B as seen.
SIGHT = {
    "full": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}

# Linear sRGB to CIE XYZ (IEC 61966-2-1), and the D65 white that belongs to it.
XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
WHITE = XYZ.sum(axis=1)

# CIE 1976 differences. About 2.3 is just noticeable with the two colours side by side; a legend and a line a
# hand's width away from it need several times that.
APART = 12.0


def linear(colour: str) -> Array:
    """`#RRGGBB` as linear-light R, G, B in 0..1."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: Array) -> Array:
    """Linear R, G, B as CIE L*, a*, b*."""
    ratio = XYZ @ np.clip(rgb, 0, 1) / WHITE
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.2, from 1 to 21."""
    luminance = sorted(float(XYZ[1] @ linear(colour)) for colour in (one, other))
    return (luminance[1] + 0.05) / (luminance[0] + 0.05)


def test_contrast_and_lab_on_known_colours() -> None:
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)
    assert lab(linear("#FFFFFF")) == pytest.approx([100, 0, 0], abs=1e-6)
    assert lab(linear("#FF0000")) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)


@pytest.mark.parametrize("sight", SIGHT)
def test_simulated_sight_leaves_greys_alone(sight: str) -> None:
    assert SIGHT[sight].sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", ["chartCategoricalColors", "chartSequentialColors", "chartDivergingColors"])
def test_chart_scales_hold_ten_different_colours(mode: str, scale: str) -> None:
    """With any other number Streamlit or Plotly silently falls back to colours of its own."""
    colours = CONFIG["theme"][mode][scale]
    assert len(set(colours)) == len(colours) == 10
    assert all(re.fullmatch(r"#[0-9A-F]{6}", colour) for colour in colours)


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("mode", MODES)
def test_every_pair_of_series_colours_stays_apart(mode: str, sight: str) -> None:
    seen = {c: lab(SIGHT[sight] @ linear(c)) for c in CONFIG["theme"][mode]["chartCategoricalColors"]}
    too_close = [
        (a, b) for a, b in itertools.combinations(seen, 2) if np.linalg.norm(seen[a] - seen[b]) < APART
    ]
    assert not too_close


@pytest.mark.parametrize("mode", MODES)
def test_series_colours_stand_out_from_the_background(mode: str) -> None:
    """WCAG 2.2, 1.4.11: what carries meaning has a contrast of 3 to what it lies on."""
    theme = CONFIG["theme"][mode]
    assert all(contrast(c, theme["backgroundColor"]) >= 3 for c in theme["chartCategoricalColors"])


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("mode", MODES)
def test_a_heatmap_reads_in_one_direction(mode: str, sight: str) -> None:
    """Lightness alone must tell more from less: it rises or falls at every step, away from the background."""
    theme = CONFIG["theme"][mode]
    scale = theme["chartSequentialColors"]
    steps = np.diff([lab(SIGHT[sight] @ linear(colour))[0] for colour in scale])
    assert (np.abs(steps) > 4).all()
    assert len(set(np.sign(steps))) == 1
    assert contrast(scale[0], theme["backgroundColor"]) < contrast(scale[-1], theme["backgroundColor"])


@pytest.mark.parametrize("mode", MODES)
def test_text_is_readable(mode: str) -> None:
    """WCAG 2.2 AA, 1.4.3: 4.5 for text, 3 for the parts of a control."""
    theme = CONFIG["theme"][mode]
    for background in (theme["backgroundColor"], theme["secondaryBackgroundColor"]):
        assert contrast(theme["textColor"], background) >= 4.5
        assert contrast(theme["linkColor"], background) >= 4.5
        assert contrast(theme["primaryColor"], background) >= 3
    assert contrast(theme["primaryColor"], "#FFFFFF") >= 4.5, "the label of a primary button is white"


@pytest.mark.parametrize("name", ["icon.svg", "logo.svg", "logo-dark.svg"])
def test_drawings_need_nothing_from_elsewhere(name: str) -> None:
    """An SVG shown as an image cannot load a font or a picture, so there must be none to load."""
    drawing = ElementTree.parse(ROOT / "assets" / name).getroot()
    assert drawing.get("viewBox")
    for element in drawing.iter():
        assert element.tag.rpartition("}")[2] not in {"text", "image", "use", "style", "script"}
        assert not any("href" in attribute for attribute in element.attrib)


# ----------------------------------------------------------------------------------------------------- server


def test_server_is_private() -> None:
    assert CONFIG["server"]["address"] == "127.0.0.1"
    assert set(CONFIG["server"]["allowedHosts"]) == {"localhost", "127.0.0.1"}
    assert CONFIG["server"]["maxUploadSize"] <= 5
    assert CONFIG["browser"]["gatherUsageStats"] is False
    assert "://" not in str(CONFIG), "a theme or a font from the network"


def options(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted names of the options in a table."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from options(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_streamlit_knows_every_option() -> None:
    """It only warns about a name that it does not know, and then ignores the line."""
    assert set(options(CONFIG)) <= set(streamlit_config.get_config_options())


def test_app_is_navigation_only() -> None:
    """import-linter sees packages; app.py is a single file, so its rule is checked here."""
    tree = ast.parse((ROOT / "app.py").read_text(encoding="utf-8"))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= {
        "streamlit",
        "ui",
        "pages",
        *sys.stdlib_module_names,
    }


# ----------------------------------------------------------------------------------------------- requirements


def lines(name: str) -> list[str]:
    """A requirements file's entries, without comments, options and blank lines."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith(("#", "-"))]


def pins() -> dict[str, str]:
    """The lock: canonical name -> version."""
    return {
        canonicalize_name(name): version
        for name, _, version in (x.partition("==") for x in lines("requirements.lock"))
    }


def test_lock_is_plain_and_sorted() -> None:
    locked = lines("requirements.lock")
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in locked)
    names = [str(canonicalize_name(line.partition("==")[0])) for line in locked]
    assert names == sorted(set(names))


def test_lock_leaves_the_accelerator_open() -> None:
    assert not [name for name in pins() if name.startswith(("nvidia", "cuda", "triton"))]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_lock_satisfies_the_requirements(name: str) -> None:
    locked = pins()
    for requirement in map(Requirement, lines(name)):
        assert requirement.url is None
        assert requirement.specifier, f"{requirement.name} has no range"
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)])


# -------------------------------------------------------------------------------------------- what is tracked

# The hosts are written in pieces, so that this file does not contain what it looks for.
REGISTRY_HOSTS = re.compile(
    "|".join(
        re.escape(host)
        for host in (
            "py" + "pi.org",
            "python" + "hosted.org",
            "download." + "pytorch.org",
            "npm" + "js.org",
            "conda.ana" + "conda.org",
            "deb." + "debian.org",
            "archive." + "ubuntu.com",
        )
    )
)
MACHINE_PATHS = re.compile(r"(?<![\w.])(/(?:home|Users|root)/|[A-Za-z]:\\Users\\)\w")


def tracked_texts() -> list[tuple[str, str]]:
    """Path and text of every tracked text file."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    texts = []
    for name in filter(None, listed.decode().split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        if b"\0" not in content[:8192]:
            texts.append((name, content.decode("utf-8", errors="replace")))
    return texts


def test_no_file_names_a_registry_or_a_machine() -> None:
    """Where packages come from is each machine's own setting, and nobody else has our home folder."""
    found = [
        (name, match.group())
        for name, text in tracked_texts()
        for pattern in (REGISTRY_HOSTS, MACHINE_PATHS)
        for match in pattern.finditer(text)
    ]
    assert not found


def test_ci_is_executable() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)
