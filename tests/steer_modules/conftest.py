"""The model most of these tests steer."""

import pytest
import tiny


@pytest.fixture(scope="module")
def bed():
    """A tiny Llama, a prompt its gate fires on, one it does not, and the program."""
    model = tiny.build("llama")
    fires, stays = tiny.prompt("llama", 1, 9), tiny.prompt("llama", 2, 12)
    gate = tiny.gate_between(model, fires, stays)
    program = tiny.program(model, [gate], [tiny.turn(2), tiny.turn(3, seed=9)])
    return model, fires, stays, program
