"""`python -m flowclas_ros.training` is `flowclas fit`."""

import sys

from flowclas_ros.training.fit import main

sys.exit(main())
