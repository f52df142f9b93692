"""What torch.compile needs beside torch: a compiler, and the header of this Python."""

import os
import shutil
import sysconfig
from pathlib import Path

from train.config import PretrainConfig
from train.errors import RunError


def refuse_without_compiler(config: PretrainConfig, *, on_cpu: bool) -> None:
    """Check that what is to be compiled can be: C++ on the CPU, and on CUDA the C in which Triton launches kernels.

    Raises:
        RunError: something is missing, which would otherwise show as a traceback after the first batch.
    """
    wanted = [name for name, on in (("views.compile", config.views.compile), ("compile", config.compile)) if on]
    if not wanted:
        return
    language, variable, known = ("C++", "CXX", ["g++"]) if on_cpu else ("C", "CC", ["gcc", "clang"])
    names = [os.environ[variable]] if variable in os.environ else known
    if not any(shutil.which(name) for name in names):
        missing = f"the {language} compiler {' or '.join(names)}"
    elif not Path(sysconfig.get_path("include", scheme="posix_prefix"), "Python.h").exists():
        missing = "this Python's header Python.h (Debian package python3-dev)"
    else:
        return
    raise RunError(
        f"{wanted[0]} = true: {missing} is missing; install it or do not compile (of our images, the target `compile` "
        "has both)"
    )
