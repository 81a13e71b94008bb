"""Kubeflow components: one thin wrapper a stage. The work is done in `med42`, which the images hold."""
