"""A slider that reports while it is dragged; Streamlit's own reports when it is let go.

It never sends faster than the page can answer: after a value has gone out the next one waits until the page has been
drawn with it (the component then gets it back as ``data.value``), so that a slow machine skips steps and never queues
them. It is a native range input: keyboard, touch and screen readers work as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import streamlit as st

HTML = """
<div class="slider">
  <div class="value" aria-hidden="true"></div>
  <input type="range">
  <div class="ends" aria-hidden="true"><span></span><span></span></div>
</div>
"""

CSS = """
.slider { font-family: var(--st-font); color: var(--st-text-color); padding: 0 0.5rem; }
.value { position: relative; height: 1.4rem; color: var(--st-link-color); font-size: 0.9rem; white-space: nowrap; }
.value span { position: absolute; }
.ends { display: flex; justify-content: space-between; font-size: 0.75rem; opacity: 0.65; }
input { appearance: none; width: 100%; height: 1.1rem; margin: 0; background: transparent; cursor: pointer; }
input::-webkit-slider-runnable-track { height: 0.3rem; border-radius: 0.2rem; background: var(--track); }
input::-moz-range-track { height: 0.3rem; border-radius: 0.2rem; background: var(--track); }
input::-webkit-slider-thumb { appearance: none; width: 1rem; height: 1rem; margin-top: -0.35rem;
  border: 0; border-radius: 50%; background: var(--st-primary-color); }
input::-moz-range-thumb { width: 1rem; height: 1rem; border: 0; border-radius: 50%;
  background: var(--st-primary-color); }
input:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 3px; border-radius: 0.3rem; }
"""

JS = """
const PATIENCE = 1500;
const memory = new WeakMap();

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".slider");
  const input = root.querySelector("input");
  const state = memory.get(root) ?? { held: false, drag: 0, wanted: null, sent: null, timer: 0 };
  memory.set(root, state);
  const text = (value) => `${Number(value).toFixed(data.digits)} ${data.unit}`;

  const paint = () => {
    const share = (input.value - data.low) / (data.high - data.low);
    const label = root.querySelector(".value span") ?? root.querySelector(".value").appendChild(
      document.createElement("span"));
    label.textContent = text(input.value);
    label.style.left = `${100 * share}%`;  // and as far back: at both ends it stays within the slider
    label.style.transform = `translateX(${-100 * share}%)`;
    input.style.setProperty("--track", `linear-gradient(to right, var(--st-primary-color) ${100 * share}%, ` +
      `var(--st-border-color) ${100 * share}%)`);
    input.setAttribute("aria-valuetext", text(input.value));
  };
  const send = () => {
    if (state.wanted === null || state.sent !== null) return;
    state.sent = state.wanted;
    state.wanted = null;
    setTriggerValue("moved", state.sent);
    state.timer = setTimeout(() => { state.sent = null; send(); }, PATIENCE);
  };
  const want = (final) => {
    if (!state.held) state.drag = Date.now();
    state.held = !final;
    state.wanted = { value: Number(input.value), drag: state.drag };
    paint();
    send();
  };

  input.min = data.low;
  input.max = data.high;
  input.step = data.step;
  input.setAttribute("aria-label", data.label);
  const ends = root.querySelectorAll(".ends span");
  ends[0].textContent = text(data.low);
  ends[1].textContent = text(data.high);
  if (state.sent !== null && data.turn !== state.turn) {
    clearTimeout(state.timer);
    state.sent = null;
  }
  state.turn = data.turn;
  if (!state.held && state.wanted === null && state.sent === null) input.value = data.value;
  paint();
  input.oninput = () => want(false);
  input.onchange = () => want(true);
  send();
}
"""

_slider = st.components.v2.component("quantlens_live_slider", html=HTML, css=CSS, js=JS)


class Move(NamedTuple):
    """What the user did: the value, and a number that the moves of one drag share."""

    value: float
    drag: int


def live_slider(
    label: str,
    low: float,
    high: float,
    value: float,
    step: float,
    unit: str,
    key: str,
    on_move: Callable[[Move], None],
) -> None:
    """Draw the slider at ``value``; ``on_move`` is called, before the page runs again, with every move."""
    turn = f"{key}:turn"

    def moved() -> None:
        found = st.session_state[key].get("moved")
        if isinstance(found, dict) and isinstance(found.get("value"), int | float):
            st.session_state[turn] = st.session_state.get(turn, 0) + 1
            on_move(Move(min(max(float(found["value"]), low), high), int(found.get("drag", 0))))

    data = {
        "label": label, "low": low, "high": high, "value": value, "step": step, "unit": unit, "digits": 2,
        "turn": st.session_state.get(turn, 0),
    }  # fmt: skip
    _slider(key=key, data=data, on_moved_change=moved)
