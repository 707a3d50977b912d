#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/file.h"
#include "msr/spec_ctrl.h"
#include "policy/policy.h"
#include "tests/unit/mutate.h"

#define V "version: 1\n"

static int parse(const char *text, struct policy *p, struct err *e)
{
	memset(e, 0, sizeof(*e));
	return policy_parse("fleet.yaml", text, strlen(text), p, e);
}

static const struct {
	const char *text;
	const char *says; /* follows "policy fleet.yaml: " */
	const char *cure; /* somewhere behind it */
} refused[] = {
	/* what is no policy */
	{"", "line 1: the file is empty", "version: 1"},
	{"# nothing\n", "line 1: the file is empty", "version: 1"},
	{"---\n", "line 2: '' where keys should be", "version: 1"},
	{"bhi\n", "line 1: 'bhi' where keys should be", "key: value"},
	{"- bhi\n", "line 1: a list where keys should be", "key: value"},
	{"{}", "line 1: version is missing", "version: 1"},
	{"bhi: on\n", "line 1: version is missing", "version: 1"},
	{V "pool: [on\n", "line 3: not YAML", "key: value"},
	{V "bhi: 'on\n", "not YAML", "key: value"},
	{V "\tbhi: on\n", "line 2: not YAML", "key: value"},
	{V "bhi on\n", "not YAML", "key: value"},
	{V "bhi: on\n  rrsba: on\n", "line 2: bhi: 'on rrsba' is not a value", "auto"},
	{V "bhi: on\n rrsba\n: on\n", "line 2: bhi: 'on rrsba' is not a value", "auto"},
	{V "bhi: on\n}\n", "line 3: not YAML", "key: value"},
	{V "\n# \xff\n", "line 3: not YAML", "key: value"},
	{V "bhi: \x01\n", "line 2: not YAML", "key: value"},
	{"\xff\xfev\0e\0", "line 1: not YAML", "key: value"},
	{V "---\n" V, "line 2: a second document", "one a file"},
	{V "...\n" V, "line 3: not YAML", "key: value"},
	{V "...\n---\n" V, "line 3: a second document", "one a file"},

	/* keys */
	{"version: 2\n", "line 1: version: '2' is not a value", "give 1"},
	{"version: one\n", "line 1: version: 'one' is not a value", "give 1"},
	{"version: 01\n", "line 1: version: '01' is not a value", "give 1"},
	{"version: 1.0\n", "line 1: version: '1.0' is not a value", "give 1"},
	{"version: [1]\n", "line 1: version: a list is not a value", "give 1"},
	{"version:\n", "line 1: version: '' is not a value", "give 1"},
	{V "\n# a comment\nbih: on\n", "line 4: 'bih' is not a key", "give version, bhi, rrsba"},
	{V "BHI: on\n", "line 2: 'BHI' is not a key", "bhi"},
	{V "core-scheduling: on\n", "line 2: 'core-scheduling' is not a key", "or isolation"},
	{V "isolation:\n  bhi: on\n", "line 3: isolation: 'bhi' is not a key",
	 "give indirect-branch, core-scheduling, vcpu-pinning, observe-ibpb, "
	 "vcpu-switch-barrier or pcpu-move-barrier"},
	{V "? [a]\n: b\n", "line 2: a list is not a key", "bhi"},
	{V "? {a: b}\n: b\n", "line 2: a map is not a key", "bhi"},
	{V "<<: {bhi: on}\n", "line 2: '<<' is not a key", "bhi"},
	{V V, "line 2: version: given on line 1 already", "leave one out"},
	{V "force-unaware: off\nhold-unaware: on\n",
	 "line 3: hold-unaware: given on line 2 already", "leave one out"},
	{V "bhi: on\nrrsba: on\nbhi: on\n", "line 4: bhi: given on line 2 already",
	 "leave one out"},
	{V "isolation:\n  observe-ibpb: on\n  observe-ibpb: off\n",
	 "line 4: isolation.observe-ibpb: given on line 3 already", "leave one out"},
	{V "isolation: {}\nisolation: {}\n", "line 3: isolation: given on line 2", "leave one out"},

	/* one bad value a key */
	{V "bhi: maybe\n", "line 2: bhi: 'maybe' is not a value", "give auto, on or off"},
	{V "bhi: true\n", "line 2: bhi: 'true' is not a value", "give auto, on or off"},
	{V "bhi: yes\n", "line 2: bhi: 'yes' is not a value", "give auto, on or off"},
	{V "bhi: On\n", "line 2: bhi: 'On' is not a value", "give auto, on or off"},
	{V "bhi:\n", "line 2: bhi: '' is not a value", "give auto, on or off"},
	{V "bhi: [on]\n", "line 2: bhi: a list is not a value", "give auto, on or off"},
	{V "bhi: {on: 1}\n", "line 2: bhi: a map is not a value", "give auto, on or off"},
	{V "bhi: \"on\\0\"\n", "line 2: bhi: 'on?' is not a value", "give auto, on or off"},
	{V "bhi: \"a\\nb\\e[31m\"\n", "line 2: bhi: 'a?b?[31m' is not", "give auto, on or off"},
	{V "rrsba: 1\n", "line 2: rrsba: '1' is not a value", "give auto, on or off"},
	{V "honour-report: all\n", "line 2: honour-report: 'all' is not a value",
	 "give both, tighten, relax or ignore"},
	{V "strict: maybe\n", "line 2: strict: 'maybe' is not a value",
	 "give on, off, true or false"},
	{V "strict: TRUE\n", "line 2: strict: 'TRUE'", "give on, off, true or false"},
	{V "bhi-no-is-enough: y\n", "line 2: bhi-no-is-enough: 'y'", "give on, off, true or false"},
	{V "hold-unaware: 0\n", "line 2: hold-unaware: '0'", "give on, off, true or false"},
	{V "hold-when-shown: no\n", "line 2: hold-when-shown: 'no'", "on, off, true or false"},
	{V "trust-model: auto\n", "line 2: trust-model: 'auto'", "give on, off, true or false"},
	{V "virtual-msrs: true\n", "line 2: virtual-msrs: 'true' is not a value", "give on or off"},
	{V "cannot: ignore\n", "line 2: cannot: 'ignore' is not a value", "give refuse or warn"},
	{V "incoming-cannot: on\n", "line 2: incoming-cannot: 'on'", "give refuse or warn"},
	{V "mixed-pool: ok\n", "line 2: mixed-pool: 'ok'", "give level, warn or refuse"},
	{V "nested: on\n", "line 2: nested: 'on' is not a value", "give hidden or shown"},
	{V "clock-difference: on\n", "line 2: clock-difference: 'on'", "give warn or refuse"},
	{V "isolation: on\n", "line 2: isolation: 'on' is not a value", "give a map"},
	{V "isolation: [on]\n", "line 2: isolation: a list is not a value", "give a map"},
	{V "isolation:\n  indirect-branch: on\n", "line 3: isolation.indirect-branch: 'on'",
	 "give default or isolate"},
	{V "isolation:\n  core-scheduling: auto\n", "line 3: isolation.core-scheduling: 'auto'",
	 "give on or off"},
	{V "isolation: {observe-ibpb: 1}\n", "line 2: isolation.observe-ibpb: '1'",
	 "give on or off"},

	/* bits */
	{V "spec-ctrl: BHI_DIS_S\n", "line 2: spec-ctrl: 'BHI_DIS_S' is not a value",
	 "'BHI_DIS_S: on'"},
	{V "spec-ctrl: [SSBD]\n", "line 2: spec-ctrl: a list is not a value", "map"},
	{V "spec-ctrl:\n  BHI: on\n", "line 3: spec-ctrl: 'BHI' is not a bit",
	 "give IBRS, STIBP, SSBD, IPRED_DIS_U, IPRED_DIS_S, RRSBA_DIS_U, RRSBA_DIS_S, PSFD, "
	 "DDPD_U or BHI_DIS_S"},
	{V "spec-ctrl:\n  Bhi_Dis_S: on\n", "line 3: spec-ctrl: 'Bhi_Dis_S' is not a bit",
	 "small letters"},
	{V "spec-ctrl:\n  10: on\n", "line 3: spec-ctrl: '10' is not a bit", "BHI_DIS_S"},
	{V "spec-ctrl:\n  SSBD: auto\n", "line 3: spec-ctrl.SSBD: 'auto' is not a value",
	 "give on, off or guest"},
	{V "spec-ctrl:\n  SSBD: on\n  ssbd: on\n", "line 4: spec-ctrl.SSBD: given on line 3",
	 "leave one out"},
	{V "spec-ctrl:\n  SSBD: guest\n  SSBD: on\n", "line 4: spec-ctrl.SSBD: given on line 3",
	 "leave one out"},
	{V "bhi: on\nspec-ctrl:\n  BHI_DIS_S: off\n",
	 "line 4: spec-ctrl.BHI_DIS_S: 'off' contradicts 'bhi: on' on line 2", "leave one out"},
	{V "bhi: on\nspec-ctrl:\n  BHI_DIS_S: guest\n",
	 "line 4: spec-ctrl.BHI_DIS_S: 'guest' contradicts 'bhi: on' on line 2", "leave one out"},
	{V "spec-ctrl: {rrsba_dis_s: on}\nrrsba: off\n",
	 "line 2: spec-ctrl.RRSBA_DIS_S: 'on' contradicts 'rrsba: off' on line 3", "leave one out"},

	/* pool */
	{V "pool: icelake.json\n", "line 2: pool: 'icelake.json' is not a value",
	 "give this-host, short-bhb, long-bhb, mixed, any or a list of host fact files"},
	{V "pool: []\n", "line 2: pool: an empty list", "this-host"},
	{V "pool: [a, '']\n", "line 2: pool: '' is not a path", "host fact file"},
	{V "pool:\n  - a\n  - [b]\n", "line 4: pool: a list is not a path", "host fact file"},
	{V "pool:\n  - a\n  - b: c\n", "line 4: pool: a map is not a path", "host fact file"},
	{V "pool: [\"a\\0b\"]\n", "line 2: pool: 'a?b' is not a path", "host fact file"},
	{V "pool: {a: b}\n", "line 2: pool: a map is not a value", "this-host"},

	/* pinning */
	{V "isolation:\n  vcpu-pinning: on\n", "line 3: isolation.vcpu-pinning: 'on' is not",
	 "give off or a list of host CPUs"},
	{V "isolation:\n  vcpu-pinning: 2\n", "line 3: isolation.vcpu-pinning: '2' is not",
	 "give off or a list of host CPUs"},
	{V "isolation:\n  vcpu-pinning: []\n", "line 3: isolation.vcpu-pinning: an empty list",
	 "off"},
	{V "isolation:\n  vcpu-pinning: [x]\n", "vcpu-pinning: 'x' is not a host CPU", "4-7"},
	{V "isolation:\n  vcpu-pinning: [-1]\n", "vcpu-pinning: '-1' is not a host CPU", "4-7"},
	{V "isolation:\n  vcpu-pinning: [1-]\n", "vcpu-pinning: '1-' is not a host CPU", "4-7"},
	{V "isolation:\n  vcpu-pinning: [1-2-3]\n", "'1-2-3' is not a host CPU", "4-7"},
	{V "isolation:\n  vcpu-pinning: [7-4]\n", "'7-4' is not a host CPU", "4-7"},
	{V "isolation:\n  vcpu-pinning: [8192]\n", "'8192' is not a host CPU", "8192"},
	{V "isolation:\n  vcpu-pinning: [99999999999999999999]\n", "is not a host CPU", "8192"},
	{V "isolation:\n  vcpu-pinning: [[1]]\n", "a list is not a host CPU", "4-7"},
	{V "isolation:\n  vcpu-pinning: [1, 0-3]\n", "vcpu-pinning: CPU 1 is given twice",
	 "one of its own"},
	{V "isolation:\n  vcpu-pinning: [0-300]\n", "vcpu-pinning: more than 255 CPUs", "vCPUs"},

	/* what YAML can do and a policy must not */
	{V "bhi: &a on\nrrsba: *a\n", "line 2: anchor or alias 'a'", "write the value out"},
	{V "bhi: *a\n", "line 2: anchor or alias 'a'", "write the value out"},
	{"&top {version: 1}\n", "line 1: anchor or alias 'top'", "write the value out"},
	{V "pool: &p [a]\n", "line 2: anchor or alias 'p'", "write the value out"},
	{V "&k bhi: on\n", "line 2: anchor or alias 'k'", "write the value out"},
	{V "bhi: !!str on\n", "line 2: tag 'tag:yaml.org,2002:str'", "leave it out"},
	{V "bhi: !x on\n", "line 2: tag '!x'", "leave it out"},
	{"!!map {version: 1}\n", "line 1: tag", "leave it out"},
};

static void test_refused(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(refused); i++) {
		static const char front[] = "policy fleet.yaml: ";
		struct policy p;
		struct err e;
		int ret = parse(refused[i].text, &p, &e);
		const char *at = strstr(e.text, refused[i].says);

		if (ret != -EINVAL || strncmp(e.text, front, strlen(front)) != 0 || !at ||
		    !strstr(at, refused[i].cure) || !strstr(e.text, "; "))
			fail_msg("'%s': ret %d, '%s'", refused[i].text, ret, e.text);
		/* what begins with the line begins there */
		if (strncmp(refused[i].says, "line", 4) == 0 && at != e.text + strlen(front))
			fail_msg("'%s': '%s'", refused[i].text, e.text);
		assert_null(strchr(e.text, '\n'));
	}
}

static void test_example_of_the_issue(void **state)
{
	struct policy p;
	struct err e;

	(void)state;
	assert_int_equal(parse(V "\n\nbhi: maybe\n", &p, &e), -EINVAL);
	assert_string_equal(e.text, "policy fleet.yaml: line 4: bhi: 'maybe' is not a value; give "
				    "auto, on or off");
}

static void test_nothing_but_the_version(void **state)
{
	struct policy p, d;
	struct err e;

	(void)state;
	policy_default(&d);
	assert_int_equal(parse(V, &p, &e), 0);
	assert_memory_equal(&p, &d, sizeof(p));
	assert_int_equal(p.mitigation.bhi, POLICY_AUTO);
	assert_int_equal(p.mitigation.rrsba, POLICY_AUTO);
	assert_false(p.mitigation.strict || p.nested_shown || p.mitigation.raw_mask);
	assert_int_equal(p.pool, POOL_THIS_HOST);
	assert_int_equal(p.isolation.n_pins, 0);
}

static void test_everything(void **state)
{
	static const char text[] = "# all that can be said\r\n"
				   "%YAML is not first, so no directive: no\n";
	static const char all[] =
		"---\nversion: 1   # the format\nbhi: on\nrrsba: \"off\"\nhonour-report: "
		"'tighten'\n"
		"strict: true\nbhi-no-is-enough: false\nhold-unaware: off\nhold-when-shown: on\n"
		"trust-model: on\nspec-ctrl:\n  SSBD: on\n  stibp: off\n  IBRS: guest\n"
		"virtual-msrs: off\ncannot: refuse\nincoming-cannot: warn\nmixed-pool: warn\n"
		"frozen-mask: rebuild\n"
		"pool:\n- icx.json\n- ../b/spr.json\nnested: shown\n"
		"clock-difference: refuse\nisolation:\n"
		"  indirect-branch: isolate\n  core-scheduling: on\n  observe-ibpb: on\n"
		"  vcpu-pinning: [9, 2-4, 0]\n...\n";
	static const uint16_t pins[] = {9, 2, 3, 4, 0};
	struct policy p;
	struct err e;

	(void)state;
	assert_int_equal(parse(text, &p, &e), -EINVAL);
	if (parse(all, &p, &e) != 0)
		fail_msg("%s", e.text);
	assert_int_equal(p.mitigation.bhi, POLICY_ON);
	assert_int_equal(p.mitigation.rrsba, POLICY_OFF);
	assert_int_equal(p.mitigation.honour_report, REPORT_TIGHTEN);
	assert_true(p.mitigation.strict);
	assert_false(p.mitigation.bhi_no_is_enough);
	assert_false(p.mitigation.force_unaware);
	assert_true(p.mitigation.force_when_shown);
	assert_true(p.mitigation.trust_model);
	assert_int_equal(p.mitigation.raw_mask, SPEC_CTRL_SSBD | SPEC_CTRL_STIBP);
	assert_int_equal(p.mitigation.raw_value, SPEC_CTRL_SSBD);
	assert_false(p.mitigation.virtual_msrs);
	assert_int_equal(p.mitigation.cannot, CANNOT_REFUSE);
	assert_int_equal(p.mitigation.incoming_cannot, CANNOT_WARN);
	assert_int_equal(p.mitigation.mixed_pool, MIXED_WARN);
	assert_true(p.mitigation.rebuild);
	assert_int_equal(p.pool, POOL_FILES);
	assert_int_equal(p.n_pool_paths, 2);
	assert_string_equal(p.pool_path[0], "icx.json");
	assert_string_equal(p.pool_path[1], "../b/spr.json");
	assert_true(p.nested_shown);
	assert_true(p.refuse_clock_difference);
	assert_true(p.isolation.isolate_indirect_branch);
	assert_true(p.isolation.core_scheduling);
	assert_true(p.isolation.observe_ibpb);
	assert_int_equal(p.isolation.n_pins, ARRAY_SIZE(pins));
	assert_memory_equal(p.isolation.pin, pins, sizeof(pins));
}

/* Names that keys had before are read, too. */
static void test_earlier_names(void **state)
{
	struct policy p;
	struct err e;

	(void)state;
	assert_int_equal(parse("version: 1\nforce-unaware: off\nforce-when-shown: on\n", &p, &e),
			 0);
	assert_false(p.mitigation.force_unaware);
	assert_true(p.mitigation.force_when_shown);
}

static void test_each_word(void **state)
{
	unsigned int n, i;
	const struct policy_key *keys = policy_keys(&n);

	(void)state;
	for (i = 0; i < n; i++) {
		const struct policy_choice *c;

		for (c = keys[i].choices; c && c->name && keys[i].size; c++) {
			char text[256];
			struct policy p;
			struct err e;
			int value = 0;

			snprintf(text, sizeof(text), V "%s%s%s%s: %s%s\n",
				 keys[i].parent ? keys[i].parent : "", keys[i].parent ? ": {" : "",
				 keys[i].name, "", c->name, keys[i].parent ? "}" : "");
			if (parse(text, &p, &e) != 0)
				fail_msg("%s: %s", text, e.text);
			memcpy(&value, (char *)&p + keys[i].offset, keys[i].size);
			assert_int_equal(value, c->value);
		}
	}
}

/* Each over and over, up to the largest file: libyaml's scanner looks ahead. */
static const char *const hostile[] = {
	"{",	    "[{",  "- ",	   "? ",       "? - ",	"a: ",	    "&a ",   "*a ",
	"&a [*a, ", "!a ", "!<a>",	   "%YAML",    "---\n", "...\na\n", "|\n ",  ">-\n \n",
	"'",	    "\"",  "\"\\x",	   "\t",       "a",	",",	    "a:\n ", "[a, ",
	"{a: ",	    "{? ", "\xef\xbb\xbf", "\xc2\x85", "\xff",	"@",	    "`",     "# a\rb\r",
};

static void test_limits(void **state)
{
	char *big = malloc(POLICY_SIZE_MAX + 2);
	char text[POLICY_POOL_MAX * 16 + 64] = V "pool:\n";
	struct policy p;
	struct err e = {0};
	int i;

	(void)state;
	memset(big, '#', POLICY_SIZE_MAX + 1);
	memcpy(big, V, strlen(V));
	assert_int_equal(policy_parse("big", big, POLICY_SIZE_MAX, &p, &e), 0);
	assert_int_equal(policy_parse("big", big, POLICY_SIZE_MAX + 1, &p, &e), -EFBIG);
	assert_non_null(strstr(e.text, "policy big: larger than 65536 bytes"));

	/* nesting costs neither stack nor time */
	memset(&e, 0, sizeof(e));
	memset(big, '[', POLICY_SIZE_MAX);
	assert_int_equal(policy_parse("deep", big, POLICY_SIZE_MAX, &p, &e), -EINVAL);
	memcpy(big, V "pool: ", strlen(V "pool: "));
	assert_int_equal(policy_parse("deep", big, POLICY_SIZE_MAX, &p, NULL), -EINVAL);
	for (i = 0; i < (int)ARRAY_SIZE(hostile); i++) {
		const size_t n = strlen(hostile[i]);
		size_t at;

		print_message("%s\n", hostile[i]);
		for (at = 0; at + n <= POLICY_SIZE_MAX; at += n)
			memcpy(big + at, hostile[i], n);
		assert_int_equal(policy_parse("hostile", big, at, &p, NULL), -EINVAL);
		memcpy(big, V, strlen(V)); /* and where a key may stand */
		assert_int_equal(policy_parse("hostile", big, at, &p, NULL), -EINVAL);
	}
	free(big);

	for (i = 0; i < POLICY_POOL_MAX; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "- h%d\n", i);
	assert_int_equal(parse(text, &p, &e), 0);
	assert_int_equal(p.n_pool_paths, POLICY_POOL_MAX);
	snprintf(text + strlen(text), sizeof(text) - strlen(text), "- more\n");
	assert_int_equal(parse(text, &p, &e), -EINVAL);
	assert_non_null(strstr(e.text, "line 67: pool: more than 64 files"));

	snprintf(text, sizeof(text), V "pool: [%0*d]\n", POLICY_PATH_MAX - 1, 7);
	assert_int_equal(parse(text, &p, &e), 0);
	assert_int_equal(strlen(p.pool_path[0]), POLICY_PATH_MAX - 1);
	snprintf(text, sizeof(text), V "pool: [%0*d]\n", POLICY_PATH_MAX, 7);
	assert_int_equal(parse(text, &p, &e), -EINVAL);
	assert_non_null(strstr(e.text, "at most 255 bytes"));
}

static const char *source_file(const char *name)
{
	static char path[512];

	snprintf(path, sizeof(path), "%s/policy/%s", SOURCE_ROOT, name);
	return path;
}

/* The installed default says what the code does, and leaves no key out. */
static void test_default_file(void **state)
{
	unsigned int n, i;
	const struct policy_key *keys = policy_keys(&n);
	struct policy p, d;
	struct err e = {0};
	char *text;
	size_t len;

	(void)state;
	if (file_read("policy", source_file("default.yaml"), POLICY_SIZE_MAX, &text, &len, &e) <
		    0 ||
	    policy_parse("default.yaml", text, len, &p, &e) < 0)
		fail_msg("%s", e.text);
	policy_default(&d);
	assert_memory_equal(&p, &d, sizeof(p));
	for (i = 0; i < n; i++) {
		const struct policy_choice *c;
		char line[80];

		snprintf(line, sizeof(line), "\n%s%s:", keys[i].parent ? "  " : "", keys[i].name);
		if (!strstr(text, line))
			fail_msg("default.yaml lacks %s", keys[i].name);
		for (c = keys[i].choices; c && c->name; c++)
			if (!strstr(text, c->name))
				fail_msg("default.yaml does not tell of %s: %s", keys[i].name,
					 c->name);
	}
	for (i = 0; i < 64; i++) {
		const char *bit = spec_ctrl_bit_name(1ULL << i);

		if (bit && !strstr(text, bit))
			fail_msg("default.yaml does not tell of %s", bit);
	}
	free(text);
}

/* "enum" holds exactly the words of @k, and the truths for a truth. */
static void check_enum(const struct policy_key *k, json_t *words)
{
	const struct policy_choice *c;
	size_t n = k->type == KEY_TRUTH ? 2 : 0, i;
	json_t *w;

	for (c = k->choices; c->name; c++, n++) {
		json_array_foreach(words, i,
				   w) if (json_is_string(w) &&
					  strcmp(json_string_value(w), c->name) == 0) break;
		if (i == json_array_size(words))
			fail_msg("the schema's %s lacks %s", k->name, c->name);
	}
	if (json_array_size(words) != n)
		fail_msg("the schema's %s has %zu values, the code %zu", k->name,
			 json_array_size(words), n);
}

static void check_bits(const struct policy_key *k, json_t *schema)
{
	json_t *patterns = json_object_get(schema, "patternProperties"), *v;
	char all[2][512] = {"^(", "^("};
	const char *pattern;
	unsigned int shift;

	for (shift = 0; shift < 64; shift++) {
		const char *name = spec_ctrl_bit_name(1ULL << shift);
		size_t at = strlen(all[0]), i;

		if (!name)
			continue;
		for (i = 0; i < 2; i++)
			snprintf(all[i] + at, sizeof(all[i]) - at, "%s%s", at > 2 ? "|" : "", name);
		for (i = at; all[1][i]; i++)
			if (all[1][i] >= 'A' && all[1][i] <= 'Z')
				all[1][i] = (char)(all[1][i] - 'A' + 'a');
	}
	strcat(all[0], ")$");
	strcat(all[1], ")$");
	assert_int_equal(json_object_size(patterns), 2);
	json_object_foreach(patterns, pattern, v)
	{
		assert_true(strcmp(pattern, all[0]) == 0 || strcmp(pattern, all[1]) == 0);
		check_enum(k, json_object_get(v, "enum"));
	}
}

/* The schema knows the same keys and values as the code, and no others. */
static void test_schema(void **state)
{
	json_error_t why;
	json_t *root =
		json_load_file(source_file("policy.schema.json"), JSON_REJECT_DUPLICATES, &why);
	size_t in_schema = json_object_size(json_object_get(root, "properties"));
	unsigned int n, i;
	const struct policy_key *keys = policy_keys(&n);

	(void)state;
	if (!root)
		fail_msg("line %d: %s", why.line, why.text);
	for (i = 0; i < n; i++) {
		json_t *o = root, *schema;

		if (keys[i].parent)
			o = json_object_get(json_object_get(o, "properties"), keys[i].parent);
		assert_true(json_is_false(json_object_get(o, "additionalProperties")));
		schema = json_object_get(json_object_get(o, "properties"), keys[i].name);
		if (!schema || !json_is_string(json_object_get(schema, "description")))
			fail_msg("the schema lacks %s or its description", keys[i].name);
		switch (keys[i].type) {
		case KEY_CHOICE:
		case KEY_TRUTH:
			check_enum(&keys[i], json_object_get(schema, "enum"));
			break;
		case KEY_POOL:
		case KEY_CPUS:
			schema = json_object_get(schema, "anyOf");
			check_enum(&keys[i], json_object_get(json_array_get(schema, 0), "enum"));
			assert_int_equal(
				json_integer_value(
					json_object_get(json_array_get(schema, 1), "maxItems")),
				keys[i].type == KEY_POOL ? POLICY_POOL_MAX : POLICY_PIN_MAX);
			break;
		case KEY_BITS:
			check_bits(&keys[i], schema);
			break;
		case KEY_MAP:
			in_schema += json_object_size(json_object_get(schema, "properties"));
			break;
		case KEY_VERSION:
			assert_int_equal(json_integer_value(json_object_get(schema, "const")),
					 POLICY_VERSION);
		}
	}
	assert_int_equal(in_schema, n);
	json_decref(root);
}

/* ---- the words of pool ---- */

static const struct host_facts icelake = {.vendor_id = "GenuineIntel",
					  .family = 6,
					  .model = 0x6a,
					  .stepping = 6,
					  .leaf7_0_edx = 0xac000000,
					  .kvm_leaf7_0_edx = 0xac000000,
					  .kvm_arch_cap = 0x0a};
static const struct host_facts sapphire = {.vendor_id = "GenuineIntel",
					   .family = 6,
					   .model = 0x8f,
					   .stepping = 8,
					   .leaf7_0_edx = 0xac000000,
					   .kvm_leaf7_0_edx = 0xac000000,
					   .leaf7_2_edx = 0x1f,
					   .kvm_leaf7_2_edx = 0x1f,
					   .kvm_arch_cap = 0x8000a};

/* enhanced IBRS and RRSBA, the latter by the model's row where microcode does not say it */
#define WARNED 0x8000aULL
#define RSBA   ARCH_CAP_RSBA /* Skylake may be where short ones are */
#define NO_BHI ARCH_CAP_BHI_NO
#define NO_ITS ARCH_CAP_ITS_NO

static void test_pool_words(void **state)
{
	static const struct {
		const char *name;
		enum policy_pool pool;
		const struct host_facts *self;
		bool ok, any_long, all_short, bhi, mixed;
		uint32_t edx2;	   /* what a guest may be shown of CPUID.(7,2).EDX */
		uint64_t arch_cap; /* and of ARCH_CAPABILITIES */
	} rows[] = {
		{"nowhere, old", POOL_THIS_HOST, &icelake, true, false, true, true, false, 0,
		 WARNED | NO_BHI | NO_ITS},
		{"nowhere, new", POOL_THIS_HOST, &sapphire, true, true, false, true, false, 0x1f,
		 WARNED | NO_BHI | NO_ITS},
		{"short, old", POOL_SHORT_BHB, &icelake, true, false, true, true, false, 0,
		 WARNED | RSBA},
		{"short, new", POOL_SHORT_BHB, &sapphire, false, false, false, false, false, 0, 0},
		{"long, old", POOL_LONG_BHB, &icelake, false, false, false, false, false, 0, 0},
		{"long, new", POOL_LONG_BHB, &sapphire, true, true, false, true, false, 0x1f,
		 WARNED | NO_ITS},
		{"mixed, old", POOL_MIXED, &icelake, true, true, false, true, true, 0,
		 WARNED | RSBA},
		{"mixed, new", POOL_MIXED, &sapphire, true, true, false, true, true, 0,
		 WARNED | RSBA},
		{"any, old", POOL_ANY, &icelake, true, true, false, false, true, 0, WARNED | RSBA},
		{"any, new", POOL_ANY, &sapphire, true, true, false, false, true, 0, WARNED | RSBA},
		{"files", POOL_FILES, &sapphire, false, false, false, false, false, 0, 0},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		struct pool_host self = {.host = *rows[i].self,
					 .backend = {.kind = BACKEND_MSR_FILTER,
						     .can_force = 0x447}};
		struct pool_level l;
		const struct pool_facts *f = &l.facts;
		struct err e = {0};
		struct policy p;
		int ret;

		self.host.kvm_arch_cap |= NO_BHI | NO_ITS;
		policy_default(&p);
		p.pool = rows[i].pool;
		ret = policy_pool_level(&p, &self, &l, &e);
		if ((ret == 0) != rows[i].ok)
			fail_msg("%s: %d, %s", rows[i].name, ret, e.text);
		if (ret == 0 && (f->any_long_bhb != rows[i].any_long ||
				 f->all_atom_or_short != rows[i].all_short ||
				 f->long_can_force_bhi != rows[i].bhi || f->mixed != rows[i].mixed))
			fail_msg("%s: %d %d %d %d", rows[i].name, f->any_long_bhb,
				 f->all_atom_or_short, f->long_can_force_bhi, f->mixed);
		if (ret == 0 && (l.leaf7_2_edx != rows[i].edx2 || l.arch_cap != rows[i].arch_cap))
			fail_msg("%s: %#x %#llx", rows[i].name, l.leaf7_2_edx,
				 (unsigned long long)l.arch_cap);
	}
}

static void test_pool_paths(void **state)
{
	static const struct {
		const char *policy, *path, *full;
	} rows[] = {
		{"fleet.yaml", "a.json", "a.json"},
		{"/etc/t/fleet.yaml", "a.json", "/etc/t/a.json"},
		{"../fleet.yaml", "b/a.json", "../b/a.json"},
		{"/fleet.yaml", "a.json", "/a.json"},
		{"/etc/fleet.yaml", "/srv/a.json", "/srv/a.json"},
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		struct policy p = {.n_pool_paths = 1};
		char *full;

		snprintf(p.pool_path[0], sizeof(p.pool_path[0]), "%s", rows[i].path);
		full = policy_pool_path(&p, 0, rows[i].policy);
		assert_string_equal(full, rows[i].full);
		free(full);
	}
}

/* ---- damage ---- */

/* Formatted, read back and formatted again: the same policy and the same text. */
static void test_format(void **state)
{
	static const char *const texts[] = {
		V,
		V "bhi: on\nstrict: on\nhonour-report: ignore\nnested: shown\n",
		V "spec-ctrl: {SSBD: on, STIBP: off, IBRS: guest}\n",
		V "spec-ctrl: {SSBD: on, STIBP: off}\n",
		V "bhi: off\nspec-ctrl: {BHI_DIS_S: guest}\n",
		V "pool: [a \"b\".json, /c/d.json]\nmixed-pool: refuse\n",
		V "pool: any\nisolation:\n  core-scheduling: on\n  indirect-branch: isolate\n",
	};
	unsigned int i, j;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(texts); i++) {
		struct policy p, again;
		char *text, *text2;
		struct err e;

		assert_int_equal(parse(texts[i], &p, &e), 0);
		text = policy_format(&p);
		assert_non_null(text);
		assert_null(strchr(text, '\n'));
		if (parse(text, &again, &e) < 0)
			fail_msg("%s: %s", text, e.text);
		assert_memory_equal(&p, &again, sizeof(p));
		text2 = policy_format(&again);
		assert_string_equal(text, text2);
		free(text2);
		for (j = 0; j < i; j++) { /* different policies differ */
			assert_int_equal(parse(texts[j], &again, &e), 0);
			text2 = policy_format(&again);
			assert_string_not_equal(text, text2);
			free(text2);
		}
		free(text);
	}
}

/* Pinning is the host's own affair: it does not make another policy. */
static void test_format_without_pins(void **state)
{
	struct policy a, b;
	char *ta, *tb;
	struct err e;

	(void)state;
	assert_int_equal(parse(V, &a, &e), 0);
	assert_int_equal(parse(V "isolation: {vcpu-pinning: [1-3]}\n", &b, &e), 0);
	ta = policy_format(&a);
	tb = policy_format(&b);
	assert_string_equal(ta, tb);
	free(ta);
	free(tb);
}

static void test_mutations(void **state)
{
	static const char *const words[] = {
		"on",		"off", ": ",	 "\n",		"\n  ",
		"- ",		"[",   "]",	 "{",		"}",
		"&a ",		"*a",  "!!str ", "---\n",	"# ",
		"\"",		"'",   "| ",	 "bhi: ",	"isolation:\n",
		"version: 1\n", "0-9", "\t",	 "%YAML 1.1\n", "? ",
		"\xef\xbb\xbf", NULL};
	uint64_t seed = 20240410;
	unsigned int i, good = 0;
	struct err e = {0};
	char *text, *buf;
	size_t len;

	(void)state;
	if (file_read("policy", source_file("default.yaml"), POLICY_SIZE_MAX, &text, &len, &e) < 0)
		fail_msg("%s", e.text);
	for (i = 0; i < 20000; i++) {
		static const char small[] = V "bhi: on\npool: [a, b]\nspec-ctrl: {SSBD: on}\n"
					      "isolation:\n  vcpu-pinning: [1, 2-5]\n";
		const char *from = i % 4 ? small : text;
		size_t n = i % 4 ? strlen(small) : len;
		struct policy p;
		int ret;

		/* of the exact size, so that reading beyond the end is seen */
		buf = malloc(n + 128);
		memcpy(buf, from, n);
		n = mutate(buf, n, n + 128, words, &seed);
		buf = realloc(buf, n + !n);
		memset(&e, 0, sizeof(e));
		ret = policy_parse("damaged", buf, n, &p, &e);
		good += ret == 0;
		if (ret < 0 && (!e.text[0] || strchr(e.text, '\n')))
			fail_msg("mutation %u: '%s'", i, e.text);
		assert_true(ret == 0 || ret == -EINVAL);
		assert_true((p.mitigation.raw_value & ~p.mitigation.raw_mask) == 0);
		free(buf);
	}
	free(text);
	/* some damage is to comments, most is not */
	assert_in_range(good, 100, 15000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_example_of_the_issue),
		cmocka_unit_test(test_nothing_but_the_version),
		cmocka_unit_test(test_everything),
		cmocka_unit_test(test_earlier_names),
		cmocka_unit_test(test_each_word),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_default_file),
		cmocka_unit_test(test_schema),
		cmocka_unit_test(test_pool_words),
		cmocka_unit_test(test_pool_paths),
		cmocka_unit_test(test_format),
		cmocka_unit_test(test_format_without_pins),
		cmocka_unit_test(test_mutations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
