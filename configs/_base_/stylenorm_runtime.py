# What every config of ours adds to mmseg's runtime.
custom_imports = dict(imports=['mmseg_stylenorm'])
custom_hooks = [
    dict(type='RNGStateHook'),  # resume is exact, also where layers draw random numbers
    dict(type='CheckpointGuardHook'),  # a checkpoint of another architecture is refused
    dict(type='ReportHook'),  # a test over several domains writes its report to the folder of its log
]
