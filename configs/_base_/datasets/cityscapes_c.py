# Cityscapes-C: Cityscapes val under 15 corruptions at 5 severities, made while loading, and without (Michaelis et al.,
# arXiv:1907.07484). 76 times 500 images; fewer by --cfg-options test_dataloader.dataset.only="['clean','fog-3']".
# Takes `pip install imagecorruptions-imaug`; tools/test.py CONFIG CHECKPOINT --data _base_/datasets/cityscapes_c.py
corruptions = ['gaussian_noise', 'shot_noise', 'impulse_noise', 'defocus_blur', 'glass_blur', 'motion_blur']
corruptions += ['zoom_blur', 'snow', 'frost', 'fog', 'brightness', 'contrast', 'elastic_transform', 'pixelate']
corruptions += ['jpeg_compression']
street = dict(type='StreetsDataset', layout='cityscapes', data_root='data/cityscapes', complete=True)
load, label = [dict(type='LoadImageFromFile')], [dict(type='LoadTrainIds'), dict(type='PackSegInputs')]
test_pipeline = load + label
names = {corruption: [f'{corruption}-{severity}' for severity in range(1, 6)] for corruption in corruptions}
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='MultiDomainDataset',
        pipeline=test_pipeline,  # for all, the corruptions stay; mmseg's tools read it here
        domains=dict(
            clean=dict(**street, pipeline=test_pipeline),
            **{
                name: dict(
                    **street,
                    pipeline=[*load, dict(type='ImageCorruption', name=corruption, severity=severity), *label],
                )
                for corruption, group in names.items()
                for severity, name in enumerate(group, 1)
            },
        ),
    ),
)
test_evaluator = dict(
    type='DomainIoUMetric', means=dict(names, mean_corrupted=[name for group in names.values() for name in group])
)
