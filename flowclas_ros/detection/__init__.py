"""Frames in, detections out: detector, calibration, regions and pictures; knows no ROS."""
