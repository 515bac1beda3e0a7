"""Words of the base corpus: names of tables, columns and values, and words that do not exist at all."""

# Things that tables hold. None is a table of the demo set.
THINGS = """
account agency airfield album allergy alloy ambulance amplifier antenna apartment apprentice archive arena
artifact asset atlas auction award balloon bank barge barn barracks basin basket bath battery bay beach bed bee
bell bicycle bird blanket blog board boat bond bottle boundary box branch brand bridge broker brush bucket bug
builder bulletin bus button cabin cable cactus calendar camel camera camp canal candidate canyon car caravan
card carpet cart cartoon castle cat cave cell cemetery chain chair championship channel chapel chapter charger
chart chef chemical child choir circuit citizen city client cliff climb clinic_visit clock cloth cloud clown
club coach coast coat coin colony comet comment committee community company compass complaint component composer
computer concert conference container contest contract cook cooler corridor costume cottage council county
coupon cousin crane crater crew crime crystal curator customer dam dancer database deal debate deck delegate
delivery department depot desert desk device diamond diary dish district diver dock document dog donor door dorm
dragon drawing dream driver drone drug drum duke dwarf eagle earthquake edition editor elder election elevator
embassy emblem emperor employee engine engineer envelope episode equation essay estate event exam excavation
exhibit expedition experiment explorer export fabric factory fair family fan fence ferry_line fest field figure
filter fire fish flag flood floor flower folder forest formula fort forum fossil foundation fountain fox frame
freight fridge fruit fund furnace gadget game garage gate gear gem general genre geyser ghost giant gift glacier
glass glove goal goat golfer grain grant grape guard guide guild guitar hall hammer handbook hangar hat hawk
helmet herb herd hero hike hill hive hobby holiday horse hospital house hunter hut icon idea illness image
incident industry ingredient inlet insect institute instrument insurance interview invention inventor invoice
island issue item jacket jar jewel job journal journey judge jungle jury kernel kettle kiosk kitchen kite knife
knight lab lake lamp lane language laptop laser launch law lawsuit lawyer layer league lecture legend lens
letter level license lift line lion list locker lodge log lottery machine magazine mail manager manor map
marathon market marsh mask mason match material mayor meal meadow measure medal medicine meeting meteor meter
microscope migration mill mine minister mirror mission mobile model module monastery monk monument moon mosaic
motel motor mountain mushroom musician nation neighbor nest network newspaper note notebook novel nurse oasis
observer ocean offer office officer olive opera operator option oracle orbit orchard orchestra organ outlet oven
owner package page palace panel paper parade parcel park parish parking parrot party passenger pasture patch
patent path payment peak pension perfume permit person pet phone photo pianist picture pier pilot pipe pirate
pitch pizza plain plan planet plant plate platform player plot plugin poem poet policy pond pool port poster pot
potter powder prayer printer prison prize problem profile program project property protein province publisher
pump puppet purchase puzzle quarry queen quest quiz rabbit race radio raft railway ranch ranger receipt recipe
record recruit reef referee refinery region relic renter repair report reporter request reserve reservoir
resident resort restaurant review reward rifle ring river road robot rocket roof route ruin rule runner saddle
sailor salon sample sanctuary satellite scanner schedule scholar score scout script sculptor sculpture season
seat sector seed senator sensor series server shark sheep shelf shelter shipment shirt shoe shop shrine signal
singer site skater sketch skill slope snack snake sofa software soldier song spacecraft spider sponsor spring
squad stable stadium staff stage stall stamp star station statue steward stock stone store storm story strategy
stream street strike studio subscriber suburb subway suitcase summit supplier surfer surgeon surveyor swimmer
sword symbol symptom syndicate tablet tailor talk tank tavern tax taxi team technique telescope temple tenant
tent terminal test thermometer thread ticket tiger tile timber tool topic torch tour tournament tower town toy
track tractor trade trader trail train trainee tram transfer translator treasure treaty tree trial tribe trick
trip trophy truck tunnel turbine tutor umbrella union university urn valley valve van vase vault vehicle vendor
venue vessel veteran video village villa vineyard violin virus visa visit volcano volunteer vote waiter wallet
warehouse warrior watch waterfall wave weapon website wedding well whale wheel widget windmill wine wizard wolf
worker workshop wrestler writer yard zone
""".split()

QUALIFIERS = """
active annual basic blue bright central city classic club coastal cold common core daily deep digital dry
eastern electric express extra family final first fixed flat foreign free fresh full future global green grand
guest heavy high home indoor inner iron junior key large late light local main major master mini mobile monthly
narrow national night noble northern old open outdoor outer paper past prime private public quick quiet rapid
raw red regional rough royal rural senior sharp silver single small smart soft solar solid southern special
spare stone street summer super team top total trade upper urban vintage warm water weekly western white wild
winter wooden yearly young
""".split()

# Columns of names, of words, of numbers (with their ranges).
NAMES = "name name name title title label full_name code designation nickname headline caption call_sign".split()
WORDS = """
category city class climate color condition continent country county currency department dialect direction
district division field flavor format frequency function gender grade habitat industry kind language level
location material medium mode mood nationality neighborhood origin owner_type party pattern phase place platform
position priority profession purpose quality rank region religion rhythm role sector season service shape sign
size source species state status strategy style subject surface team theme tier tone topic town track type usage
variety vendor venue zone
""".split()
NUMBERS = """
age 1 95|amount 1 900|area 5 5000|attendance 20 90000|balance 0 99000|bonus 0 9000|budget 100 950000|
capacity 5 9000|charge 1 400|circulation 50 90000|cost 1 9000|count 0 500|crew_size 1 90|debt 0 90000|
delay 0 300|density 1 900|depth 1 900|diameter 1 400|discount 0 90|distance 1 9000|duration 1 400|
earnings 100 99000|elevation 1 8000|energy 1 990|episodes 1 90|expenses 10 9000|experience 1 45|fee 1 900|
fine 1 990|floors 1 90|frequency 1 990|fuel 1 900|goals 0 90|headcount 1 9000|height 1 900|hours 1 90|
humidity 1 99|income 100 99000|intensity 1 100|length 1 900|lifespan 1 99|load 1 990|losses 0 60|margin 1 90|
mass 1 9000|matches 1 90|mileage 10 99000|minutes 1 300|orders 1 900|output 1 9000|pages 4 990|points 0 400|
population 90 990000|power 1 990|pressure 1 990|price 1 9900|profit 1 99000|quantity 1 990|range 1 900|
rank 1 99|rating 1 100|ratio 1 99|rate 1 99|repairs 0 40|revenue 10 990000|rooms 1 90|salary 900 99000|
score 0 100|seats 1 990|size 1 990|speed 1 990|stock 0 990|storage 1 990|strength 1 100|temperature 1 99|
thickness 1 90|tickets 1 990|tons 1 990|units 1 990|value 1 9900|views 1 99000|visitors 1 99000|voltage 1 990|
volume 1 990|votes 1 9900|wage 5 90|weeks 1 52|weight 1 900|width 1 900|wins 0 90|years_of_service 1 40|
year 1880 2024|birth_year 1900 2010|build_year 1800 2024|founding_year 1700 2024|opening_year 1800 2024|
release_year 1930 2024|start_year 1900 2024|days_open 1 365|member_count 1 990|staff_count 1 900|
page_count 4 990|room_count 1 400|visitor_count 10 99000|award_count 0 50
""".replace("\n", "").split("|")
MEASURED = (
    "net gross base total daily monthly annual average peak unit max min start final last first monthly local".split()
)

# How a value may follow its noun, by the column's last word.
EQUAL = {
    "city": ("in {}", "from {}"),
    "country": ("from {}", "in {}"),
    "town": ("from {}", "in {}"),
    "place": ("at {}",),
    "location": ("in {}", "at {}"),
    "region": ("in {}", "from {}"),
    "state": ("in {}", "from {}"),
    "zone": ("in {}",),
    "district": ("in {}",),
    "county": ("in {}", "from {}"),
    "venue": ("at {}",),
    "language": ("in {}",),
    "origin": ("from {}",),
    "continent": ("in {}",),
    "topic": ("on {}",),
    "subject": ("on {}",),
    "material": ("made of {}",),
}
YEARS = {
    "birth_year": ("born after {}", "born before {}", "youngest", "oldest"),
    "build_year": ("built after {}", "built before {}", "newest", "oldest"),
    "founding_year": ("founded after {}", "founded before {}", "newest", "oldest"),
    "opening_year": ("opened after {}", "opened before {}", "newest", "oldest"),
    "release_year": ("released after {}", "released before {}", "newest", "oldest"),
    "start_year": ("started after {}", "started before {}", "newest", "oldest"),
}
LINKS = """
of|of|of|from|by|in|in|with|at|for|owned by|assigned to|held in|led by|made by|linked to|belonging to|kept by|
sold by|written by|run by|found in|given to|named after|sent to|used by|used in|chosen by|placed in|born in|
built by|tied to|registered with|managed by|stored in|taught by|played by|painted by|signed by|shown in|
made for|hired by|living in|carried by|designed by|reviewed by|ordered by|bought by|covered by|directed by|
working for|brought by|leaving from|going to|passing
""".replace("\n", "").split("|")

PLACES = """
Albania Angola Austria Belgium Bolivia Bulgaria Chile China Colombia Croatia Cuba Denmark Ecuador Egypt Estonia
Finland Georgia Germany Ghana Haiti Hungary Iceland Iran Ireland Israel Jamaica Jordan Korea Laos Latvia Libya
Malta Morocco Nepal Nigeria Oman Panama Peru Poland Qatar Romania Russia Serbia Spain Sudan Sweden Syria
Thailand Togo Tunisia Turkey Uganda Ukraine Vietnam Yemen Zambia Accra Athens Austin Bangkok Berlin Bogota
Bristol Brussels Chicago Dallas Delhi Dubai Geneva Hamburg Hanoi Havana Houston Istanbul Jakarta Leeds Lisbon
London Lyon Manila Miami Milan Moscow Munich Nairobi Naples Osaka Prague Quito Riga Rome Santiago Seattle Seoul
Sofia Sydney Tallinn Tokyo Tunis Turin Utrecht Venice Warsaw Zurich
""".split()
GIVEN = """
Aaron Abel Agnes Albert Alice Amanda Andrew Angela Anna Arthur Barbara Benjamin Carla Carol Charles Chloe Daniel
David Deborah Diana Donald Edith Edward Eleanor Emma Eric Esther Eva Frank Fred George Gloria Grace Harold Harry
Helen Henry Howard Ida Irene Isaac Jack James Jane Jason Jean Joan John Joseph Judith Karen Kevin Laura Lewis
Linda Louis Lucy Maria Mark Martha Martin Mary Michael Nancy Nathan Nicole Omar Pamela Patrick Peter Philip
Rachel Ralph Rebecca Robert Roger Ruth Samuel Sarah Sophia Stephen Susan Teresa Thomas Victor Vincent Walter
Wendy William
""".split()
FAMILY = """
Adams Allen Anderson Bailey Baker Barnes Bell Bennett Brooks Brown Butler Campbell Carter Clark Collins Cook
Cooper Cox Davis Edwards Fisher Foster Garcia Gray Green Hall Harris Hill Howard Hughes Jackson James Jones
Kelly King Lee Long Marshall Miller Mitchell Moore Morgan Morris Murphy Nelson Parker Perry Phillips Powell
Price Reed Richards Rivera Roberts Robinson Rogers Ross Russell Sanders Scott Simmons Smith Stewart Taylor
Thompson Torres Turner Walker Ward Watson White Williams Wilson Wood Wright
""".split()
PLAIN = """
active adult amber analog ancient angular autumn basic black blue bold brass bronze brown calm cheap circular
clean clear closed cold copper cotton cream critical crisp dark dense direct double dry early eastern easy elite
empty exact failed fast female final fine firm formal frozen gold good gray green hard heavy high hollow hot
human idle inactive indoor iron junior large late leather light linear liquid lost loud low lunar male manual
marble medium mild minor mixed modern narrow neutral new normal northern old open orange oval paid pale partial
passive pending pink plain plastic polar poor premium public purple rare raw ready red remote retired rich round
royal rustic safe senior sharp shy silk silver simple single sleek slow small smooth soft solar solid sour
southern spicy square stable standard steel strict strong sweet tall thick thin tiny tropical urban valid vivid
warm weak western wet white wide wild winter wood yellow young
""".split()

# Everyday words that serve as columns and values too, and lend their halves to invented words.
GENERAL = """
ability absence academy access accident accord accuracy acid acre action adapter adventure advice affair
agreement aid aim alarm allowance alliance altitude ambition analysis anchor angle answer anthem apology appeal
appetite approach approval arrival aspect attempt attention attitude authority average axis balance ban bargain
barrier basis battle beauty behavior belief benefit birth blend block blood boost border bottom bounce brain
bread break breath brief broadcast burden burst business calm campaign cancel capital care cause caution center
century ceremony certificate challenge chance change chaos character charm chase check cheer choice claim
clarity clash closing clue code collapse combination comfort command comment commerce commission comparison
complete complex concept concern conclusion conduct confidence conflict connection consent constant contact
content context continue contrast control convention conversion cooling core corner correct courage cover craft
crash cream creation credit crisis crown culture curiosity current curve custom cycle damage danger dawn
daylight deadline decade decision decline defeat defense degree demand departure dependence deposit descent
design desire destination detail development dialogue dignity dimension direct disaster discovery discussion
disease distinction dividend division document domain doubt downtown draft drama drift drop duty dust earning
ease echo economy edge education effect effort emotion emphasis encounter ending engagement enjoyment enterprise
entrance entry environment equipment error escape establishment estimate evening evidence evolution example
exception exchange excuse exercise existence exit expansion expectation explanation exposure expression
extension extent extreme eye fabrication failure faith fame fashion fate fault favor fear feature feedback
feeling fiction fight finish fitness fixture flash flight focus folk footprint force forecast formation fortune
forward freedom friendship frontier function future gain gap gathering gaze gesture glory grace gravity greeting
grip ground growth guarantee guidance habit half handling harmony harvesting haste health hearing heart heat
heritage highlight hint history holding homework honesty honor hope horizon hospitality hour household humor
hunger hurry ignition illusion imagination impact import impression improvement impulse inch incentive income
increase independence influence information initiative injury innovation input inquiry insight inspiration
instance instinct instruction insulation intention interest interior interval invitation involvement iron
isolation joint joke joy judgment jump justice keyword knowledge label labor lack land landing laughter lead
leaf leap learning leisure lesson liberty lifetime lighting limitation listening literature living loan logic
longing loop loss loyalty luck luxury magic mainland maintenance majority making management manner manual
marking mastery maximum meaning means mechanism membership memory mention mercy merit message method midnight
mind mineral minimum minute mistake mixture moment momentum money morning motion motive movement mystery
narrative nature necessity need negotiation network newcomer night noise nomad notion number object obligation
observation obstacle occasion occupation offense opinion opponent opportunity opposition option origin outbreak
outfit outlet outline outlook output outside overlap overview oxygen pace packing pain painting_tool pair
parallel parking_lot part partner passion pattern pause payment_plan peace penalty perception performance
permission personality perspective phase philosophy phrase piece pleasure pocket point_value pointer politics
pollution portion portrait position possession possibility potential practice praise precision preference
premise presence presentation pressing prestige prevention pride principle privacy privilege procedure process
product_line progress promise promotion proof proportion proposal prospect protection proverb provision
publicity pulse punishment pursuit quality question quota quotation reaction reading reality reason reception
recognition recommendation recovery reduction reference reflection reform refuge refusal regard regret
regulation rejection relation relationship relaxation release reliability relief remark remedy reminder removal
rent replacement reply representation reputation requirement rescue research resistance resolution resource
respect response responsibility result_code retirement return revolution rhyme riddle right rise risk rival
role_model root rotation routine rumor sacrifice safety sailing sale_point satisfaction saving scale scandal
scene scent scheme science scope secret section security selection self sense sensation sentence separation
sequence session_key settlement shade shadow sharing shift shock shortage shoulder sight silence similarity
simplicity situation skin sleep smile smoke solution sorrow sound space spark spectrum speech spending spirit
split spot spread stability standard statement statistic stay step stimulus stop storage strain strength stress
stretch structure struggle study stuff substance success suggestion summary sunset supply support surprise
survival suspicion sympathy symphony tale talent target task taste teaching temper tendency tension territory
testing texture thanks theory thinking thought threat threshold timing tissue title tone touch trace tradition
tragedy training trait transition transport travel treatment trend triumph trouble trust truth turn twist
understanding unit unity update upgrade usage utility vacation variable variation velocity verdict version
vibration victory view violation vision vocabulary voice waiting walk warmth warning waste wealth weather
weekend weight welcome welfare whisper wisdom wish withdrawal wonder wording work world worry worth yesterday
youth zeal
""".split()

LEXICON = sorted(
    {
        part
        for word in (
            *THINGS,
            *GENERAL,
            *QUALIFIERS,
            *PLAIN,
            *WORDS,
            *MEASURED,
            *map(str.lower, PLACES),
            *map(str.lower, GIVEN),
            *map(str.lower, FAMILY),
        )
        for part in word.split("_")
    }
)
# Words of questions, prose and prompts, of which invented words take their halves too: no token is for them alone.
HALVES = (
    LEXICON
    + """
about above actor against among anything appointment ascending author average below between book character
contains count country course dataset descending different display distinct equal every expert fewest film
following greater highest integer largest lowest lunch maximum mission nation number only outcome patient play
point primary press query question references result session shared short smallest smart starts state student
table tables tell text than total translate unique value varchar visitor weekday whose wonder write younger
""".split()
)
ONSETS = "b bl br c ch cl d dr f fl g gr h j k l m n p pl pr r s sh sl st t tr v w y z".split()
VOWELS = "a a e e i i o o u ai ea oo ou".split()
CODAS = ["", "", "", "", *"b ck d ft g k l m n nd ng p r rn rt s st t th x".split()]


def invented(rng):
    """A word that does not exist: halves of two words, or syllables."""
    if rng.chance(0.75):
        first, second = rng.choice(HALVES), rng.choice(HALVES)
        head = first[: rng.between(min(2, len(first)), min(7, len(first)))]
        return head + second[-rng.between(min(2, len(second)), min(7, len(second))) :]
    return "".join(
        rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) * rng.chance(0.6)
        for _ in range(rng.weighted([(5, 2), (1, 3)]))
    )


# SQL's own words: no name of a table or a column.
RESERVED = set(
    """
add all alter and as asc between by case check collate commit create default delete desc distinct drop else end
escape except exists foreign from group having if in index insert intersect into is isnull join like limit not
notnull null on or order primary references select set table then to transaction trigger union unique update
using values view when where
""".split()
)


def name_word(rng):
    """A word for a name: a real one, or one that does not exist."""
    word = invented(rng) if rng.chance(0.5) else rng.choice(LEXICON)
    return word if word not in RESERVED else name_word(rng)
