"""QUALS inside other libraries' training: metric, reward, callback, module."""
