"""The name under which ``flwr run`` finds the ServerApp (``fedfmd.flower.server``)."""
