# The four cities of NTHU (Chen et al., ICCV 2017, arXiv:1704.08509) and the 13 classes that their labels have. The city
# comes from the environment, NTHU_CITY=Rome, Rio, Tokyo or Taipei, and so does the suffix of its images where they are
# not PNG files, NTHU_SUFFIX=.jpg. First python tools/prepare_nthu.py data/nthu/Rome
city = '{{$NTHU_CITY:Rome}}'
classes = ['road', 'sidewalk', 'building', 'traffic light', 'traffic sign', 'vegetation', 'sky', 'person', 'rider']
classes += ['car', 'bus', 'motorcycle', 'bicycle']
shared = dict(metainfo=dict(classes=classes))
nthu = dict(
    type='StreetsDataset', layout='nthu', data_root=f'data/nthu/{city}', img_suffix='{{$NTHU_SUFFIX:.png}}', **shared
)
cityscapes = dict(type='StreetsDataset', layout='cityscapes', split='train', data_root='data/cityscapes', **shared)
