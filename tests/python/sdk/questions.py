"""What all official clients ask."""

from __future__ import annotations

import base64

from pydantic import BaseModel

PLAIN = "What is a router?"
# The mock calls a tool when it reads this word.
FOR_A_TOOL = "use_tool: what is the weather in Paris?"
TOOL_NAME = "get_weather"
TOOL_DESCRIPTION = "Tells the weather of a city."
TOOL_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
# One white pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/5+hHgAHggJ/PchI7wAAAABJRU5ErkJggg=="
)


class City(BaseModel):
    """What is asked for as JSON."""

    name: str
    population: int


def check_tool_arguments(arguments: dict) -> None:
    """Fails unless the arguments fit the tool's schema."""
    assert set(arguments) == {"city", "days"}, arguments
    assert isinstance(arguments["city"], str), arguments
    assert isinstance(arguments["days"], int), arguments
