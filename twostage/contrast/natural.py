"""Contrast words for text towers that were taught on captions of photographs.

Common nouns for what photographs show, one plain word for each thing rather than its kinds: "dog", not "poodle".
"""

from __future__ import annotations

from twostage.contrast.lists import ContrastList


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.replace("\n", " ").split(",") if word.strip())


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    pairs = (pair.split("/") for pair in _words(text))
    return tuple((asked.strip(), listed.strip()) for asked, listed in pairs)


_GROUPS = {
    "anything": "background",
    "nature": """sky, cloud, sea, river, lake, waterfall, beach, sand, rock, mountain, hill, snow, ice, ground, mud, grass,
        field, forest, tree, bush, flower, leaf""",
    "ways": "road, pavement, path, gravel, railway track, bridge, stairs, parking lot",
    "buildings": """building, house, skyscraper, tower, church, barn, castle, tent, wall, fence, roof, window, door,
        balcony, chimney, column, ceiling, floor""",
    "street": """street lamp, traffic light, traffic sign, pole, bench, fountain, statue, flag, billboard, mailbox,
        trash can""",
    "vehicles": "car, bus, truck, van, motorcycle, bicycle, train, tram, airplane, helicopter, boat, ship, tractor",
    "people": "person",
    "animals": """dog, cat, horse, cow, sheep, goat, pig, elephant, giraffe, zebra, lion, tiger, bear, monkey, rabbit, deer,
        bird, duck, chicken, owl, penguin, fish, shark, whale, snake, lizard, turtle, frog, butterfly, bee, spider""",
    "clothes": """shirt, trousers, dress, coat, skirt, shoe, hat, glasses, glove, scarf, tie, bag, backpack, suitcase,
        umbrella, helmet""",
    "furniture": """chair, sofa, table, desk, bed, wardrobe, shelf, lamp, curtain, carpet, pillow, blanket, mirror,
        painting, clock, vase, potted plant""",
    "kitchen and bath": """refrigerator, oven, sink, microwave, toaster, kettle, pot, plate, bowl, cup, bottle, jar, knife,
        fork, spoon, bathtub, toilet, shower, towel""",
    "food": """bread, cake, pizza, sandwich, cheese, meat, egg, rice, soup, salad, apple, banana, orange, grape, strawberry,
        tomato, carrot, potato, pumpkin, ice cream""",
    "machines": "computer, laptop, keyboard, phone, television, camera, headphones, printer, fan, radiator",
    "objects": """book, newspaper, box, basket, bucket, rope, ladder, hammer, scissors, pen, candle, toy, ball, balloon,
        kite, guitar, piano, drum, violin, racket, skateboard, surfboard, skis""",
}

_SYNONYMS = """couch / sofa, automobile / car, lawn / grass, street / road, sidewalk / pavement, ocean / sea, woods / forest,
    stone / rock, bike / bicycle, motorbike / motorcycle, aeroplane / airplane, lorry / truck, pants / trousers,
    jacket / coat, rug / carpet, cushion / pillow, fridge / refrigerator, mug / cup, TV / television, cellphone / phone,
    stairway / stairs, pedestrian / person, bookcase / shelf, garbage bin / trash can, traffic signal / traffic light,
    shrub / bush, closet / wardrobe, picture / painting"""
_KINDS = """taxi / car, puppy / dog, poodle / dog, kitten / cat, palm / tree, pine / tree, rose / flower, tulip / flower,
    meadow / field, highway / road, boulder / rock, cottage / house, jet / airplane, ferry / ship, sailboat / boat,
    pony / horse, bull / cow, lamb / sheep, hen / chicken, eagle / bird, parrot / bird, salmon / fish, man / person,
    woman / person, child / person, sneaker / shoe, boot / shoe, handbag / bag, cap / hat, armchair / chair, stool / chair,
    football / ball, cobra / snake, chapel / church, novel / book"""
_PARTS = """wheel / car, windshield / car, wing / airplane, branch / tree, trunk / tree, petal / flower, mattress / bed,
    face / person, hair / person, sleeve / shirt, handlebar / bicycle, sail / boat, mane / horse, antlers / deer"""

NATURAL = ContrastList(
    groups={name: _words(text) for name, text in _GROUPS.items()},
    related=_pairs(",".join((_SYNONYMS, _KINDS, _PARTS))),
)
