"""`python -m flowclas_ros.training` is `flowclas fit`."""

import sys

from flowclas_ros.allocator import keep_freed_memory
from flowclas_ros.training.fit import main

keep_freed_memory()
sys.exit(main())
