"""FlowCLAS anomaly segmentation for ROS 2: camera images in, hazards out."""

from pkgutil import extend_path

# colcon and the message build may put the generated `msg` package on another entry of sys.path.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
