# SYNTHIA as a source for Cityscapes, with the 16 classes that both have: terrain, truck and train are ignored in
# training and test, and no network predicts them. mIoU is the mean over the 16, mIoU13 over 13 of them (without wall,
# fence and pole) from the same predictions. All 9,400 images are trained on.
classes = ['road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light', 'traffic sign', 'vegetation']
classes += ['sky', 'person', 'rider', 'car', 'bus', 'motorcycle', 'bicycle']
shared = dict(metainfo=dict(classes=classes))
synthia = dict(type='StreetsDataset', layout='synthia', data_root='data/synthia', **shared)
metric = dict(type='DomainIoUMetric', subsets=['mIoU13'])
