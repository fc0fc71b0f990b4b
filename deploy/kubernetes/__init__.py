"""Manifests for Kubernetes, and how they are filled with what an installation is called."""
