# The data of MaxSquare's and SNR's code: GTA5 at 1280x720, mirrored and blurred at random, of the official training
# split (12,403 images) where data/gta5/splits/train.txt lists it; Cityscapes at 1024x512, scored on labels of that
# size.
# --tta adds the mirrored image, as their tools/evaluate.py --flip True.
_base_ = './gtav2cityscapes_1280x720.py'
mirror = dict(type='RandomFlip', prob=0.5)
blur = dict(type='RandomGaussianBlur', prob=0.5, sigma=(0.0, 1.0))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadTrainIds'),
    mirror,
    dict(**_base_.resize, scale=(1280, 720)),
    blur,
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadTrainIds'),
    dict(**_base_.resize, scale=(1024, 512)),
    dict(type='ScoreAsShown'),
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    *test_pipeline[:-1],
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='PackSegInputs')],
        ],
    ),
]
train_dataloader = dict(
    batch_size=1,
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    dataset=dict(ann_file='splits/train.txt', ann_missing_ok=True, pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
