"""The command lines; an installation has them as the package `stylenorm_tools`, with the command `stylenorm`."""
