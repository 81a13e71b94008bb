"""The cluster: which node pool each kind of stage runs on."""
