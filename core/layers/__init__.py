"""Layers that methods put around the base's own: they import torch, and are imported only where a model is at hand."""
