"""Offline: data, pseudo-outliers, losses, the Lightning module, metrics and calibration."""
