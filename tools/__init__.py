"""The command lines, installed as the package `stylenorm_tools` with the command `stylenorm`."""
