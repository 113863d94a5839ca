"""torchrun that makes the file ``$ASKED`` when it has asked one of its processes to stop."""

import os
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler
from torch.distributed.run import main

close = SubprocessHandler.close


def closing(self: SubprocessHandler, *arguments: Any, **options: Any) -> None:
    close(self, *arguments, **options)
    Path(os.environ["ASKED"]).touch()


if __name__ == "__main__":
    SubprocessHandler.close = closing  # type: ignore[method-assign]
    main()
