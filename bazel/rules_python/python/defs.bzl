"""The Python rules that this Bazel has built in, under the names of rules_python."""

py_library = native.py_library
