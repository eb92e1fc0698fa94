"""Learn: quantization taught on a real model, one idea a page; the terms; a page to print."""

from ui.entry import ensure_entry
from ui.learn_page import lessons, printed, words_of_the_field
from ui.widgets import page_title

ensure_entry("learn")
page_title("Learn", "How quantization works, one idea a page, tried on the weights of the model at hand.")
lessons()
printed()
words_of_the_field()
