"""Files that a command writes: complete and durable under their name, or not there at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resilient.errors import ConfigurationError
from resilient.store import safetensors_format
from resilient.store.files import write_file
from resilient.store.oserrors import storage_errors
from resilient.store.temporaries import replacing


def checked_output(output: Path, directory: Path, endings: tuple[str, ...], remedy: str) -> str:
    """The ending of `output`, after everything that can be known beforehand about writing there has been checked.

    Raises:
        ConfigurationError: its ending is none of `endings`, its folder is missing, something other than a file has its name, or it
            lies in the run directory.
    """
    ending = next((ending for ending in endings if output.name.endswith(ending) and output.name != ending), None)
    if ending is None:
        raise ConfigurationError(f"--output {output} does not end in {' or '.join(endings)}. {remedy}.")
    with storage_errors("look for the output's folder", output.parent):
        if not output.parent.is_dir():
            raise ConfigurationError(f"--output {output} cannot be written: there is no folder {output.parent}. Create it first.")
        if output.exists() and not output.is_file():
            raise ConfigurationError(f"--output {output} cannot be written: something that is no file has this name. Use another.")
    if Path(os.path.realpath(output)).is_relative_to(os.path.realpath(directory)):
        raise ConfigurationError(f"--output {output} lies in the run directory {directory}, which belongs to the run. Write elsewhere.")
    return ending


def write_safetensors(output: Path, tensors: Mapping[str, Any]) -> None:
    """Write `tensors` (name -> array) as a safetensors file."""
    layout = safetensors_format.layout(tensors)
    with replacing(output) as temporary:
        write_file(temporary, layout.size, layout.chunks())
