"""UPerNet, VanillaNet-13, ADE20K, 160,000 iterations, with an UPerNet Swin-B as its teacher.

The authors publish no segmentor; the recipe is ours, and has not been run to its end.
"""

_base_ = 'upernet_vanillanet13.py'

# mmseg's zoo, 50.13 mIoU. The loss has mmrazor's settings.
default_hooks = dict(
    distill=dict(
        type='DistillHook',
        teacher='mmseg::swin/'
        'swin-base-patch4-window7-in22k-pre_upernet_8xb2-160k_ade20k-512x512.py',
        teacher_checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/swin/'
        'upernet_swin_base_patch4_window7_512x512_160k_ade20k_pretrain_224x224_22K/'
        'upernet_swin_base_patch4_window7_512x512_160k_ade20k_pretrain_224x224_22K_'
        '20210526_211650-762e2178.pth',
        distill=[dict(type='ChannelWiseDivergence', tau=1.0, loss_weight=5.0)],
    )
)
