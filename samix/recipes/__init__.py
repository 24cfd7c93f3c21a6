"""Recipes: everything that decides a training run, as one flat value; and the published ones, by name.

A named recipe is plain values, and what differs by mixup: the final learning rate of the learned ones, the alpha of
each. Recipes without labels are in :mod:`samix.recipes.pretrain_named`.
"""

from samix.recipes.files import read_config as read_config
from samix.recipes.files import read_recipe_file as read_recipe_file
from samix.recipes.named import RECIPES as RECIPES
from samix.recipes.named import TRAINING as TRAINING
from samix.recipes.named import named_recipe as named_recipe
from samix.recipes.pretrain_recipe import PretrainRecipe as PretrainRecipe
from samix.recipes.recipe import LossName as LossName
from samix.recipes.recipe import Recipe as Recipe
from samix.recipes.recipe import from_dict as from_dict
from samix.recipes.recipe import with_model as with_model
