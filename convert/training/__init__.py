"""Training: an adapter for a decoder, or an encoder, all of it or its head.

finetune_stage.py       the stage: what a recipe trains
training_loop.py        epochs, warm-up and cosine, early stopping on held-out rows
decoder_trainer.py      LoRA training of a decoder
lora.py                 which layers of a decoder are trained
encoder_trainer.py      training of an encoder
encoder_objective.py    what the head of an encoder learns
checkpoint_loading.py   loads checkpoints with transformers
"""
