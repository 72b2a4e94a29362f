from __future__ import annotations

import math

import pytest

from mlx_align_cli.display.text import ago, clean, duration, metric, number, one_line, size, sparkline


def test_control_and_reordering_characters_become_visible():
    assert clean("a\x1b[31mred\x07\r\x9b\u202eb\x7f") == "a␛[31mred␇␍��b␡"


def test_ordinary_text_stays():
    text = "Zürich, 東京 👩‍🔬\nline two"
    assert clean(text) == text


def test_lone_surrogates_can_be_printed():
    clean("\udc80").encode("utf-8")


def test_one_line_shortens():
    assert one_line("a  b\nc", 10) == "a b c"
    assert one_line("abcdefghij", 5) == "abcd…"
    assert one_line("你好世界", 5) == "你好…"
    assert one_line("你好世界", 4) == "你…"
    assert one_line("你好世界", 8) == "你好世界"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (math.nan, "–"), (0.0, "0"), (0.12345, "0.123"), (1234.5, "1234.5"), (1e-6, "1.0e-06")],
)
def test_numbers(value, text):
    assert number(value) == text


def test_accuracy_is_a_percentage():
    assert metric("accuracy", 0.975) == "97.5%"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (7, "0:07"), (600, "10:00"), (754, "12:34"), (65, "1:05"), (3723, "1:02:03")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_ages_and_sizes():
    assert (ago(5), ago(120), ago(7200), ago(200_000)) == ("just now", "2 min ago", "2 h ago", "2 d ago")
    assert (size(500), size(3 * 10**8), size(8 * 10**9)) == ("500 B", "300 MB", "8.00 GB")
    assert (size(10**11 - 10**7), size(10**11)) == ("99.99 GB", "100 GB")


def test_sparkline_rises_and_leaves_gaps():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, None, 7], 3) == "▁ █"
    assert sparkline([math.nan, math.inf], 5) == "  "


def test_sparkline_fits_and_a_constant_is_flat():
    assert len(sparkline([float(i) for i in range(1000)], 20)) == 20
    assert set(sparkline([-0.4, -0.4 + 1e-16, -0.4], 3)) == {"▄"}
