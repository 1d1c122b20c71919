"""Templates that mean harm end in an error: soon, and without the memory that they ask for."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from copy import deepcopy

import pytest

from kvatlas.index.errors import TemplateError
from kvatlas.tokenize.chat.templates.chat_template import ChatTemplate
from kvatlas.tokenize.config import TokenizeLimits
from tests.tokenize.chat.templates import attacks

LIMITS = TokenizeLimits(text_bytes_max=4 << 20, render_s_max=0.2)
PEAK_MB_MAX = 500
"""Above what Python and jinja take: 256 MB of small values, 16 MB of large ones, and what holds them."""

pytestmark = pytest.mark.timeout(120)


def render(source: str) -> str:
    return ChatTemplate(source, name="hostile", limits=LIMITS).render(deepcopy(attacks.VARIABLES))


@pytest.mark.slow
@pytest.mark.parametrize("what", sorted(attacks.TIME))
def test_a_template_that_takes_too_long_is_stopped(what: str) -> None:
    with pytest.raises(TemplateError, match="stopped: "):
        render(attacks.TIME[what])


@pytest.mark.slow
@pytest.mark.parametrize("what", sorted(attacks.MEMORY))
def test_a_template_that_wants_too_much_memory_is_stopped(what: str) -> None:
    with pytest.raises(TemplateError):
        render(attacks.MEMORY[what])


@pytest.mark.parametrize("what", sorted(attacks.REACH))
def test_a_template_does_not_get_at_what_is_not_its_own(what: str) -> None:
    before = deepcopy(attacks.VARIABLES)
    with suppress(TemplateError):
        # What is unsafe is undefined: it may be written, as nothing.
        assert render(attacks.REACH[what]) == ""
    assert before == attacks.VARIABLES


@pytest.mark.slow
@pytest.mark.parametrize("what", sorted(attacks.SOURCE))
def test_a_source_made_to_overwhelm_the_compiler_is_refused(what: str) -> None:
    with pytest.raises(TemplateError):
        render(attacks.SOURCE[what])


@pytest.mark.slow
def test_all_attacks_together_need_bounded_memory() -> None:
    """In a process of their own, whose peak can be read."""
    script = """
from pathlib import Path
from tests.tokenize.chat.templates import attacks
from tests.tokenize.chat.templates.test_attacks import render
from kvatlas.index.errors import TemplateError
render("{{ tools|tojson }}")
# Not `ru_maxrss`: that begins with the peak of the process which started this one.
peak_kb = lambda: int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
start_kb = peak_kb()
for source in [*attacks.SOURCE.values(), *attacks.MEMORY.values(), *attacks.TIME.values()]:
    try:
        render(source)
    except TemplateError:
        pass
print((peak_kb() - start_kb) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < PEAK_MB_MAX
