"""The one package that knows Flower and Ray: the apps, their messages, shared memory, workers on Ray."""
