#include "control/qmp_command.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/text.h"

static const struct {
	const char *name;
	json_type type, also; /* JSON has two types of truth */
} kinds[] = {
	[QMP_STRING] = {"string", JSON_STRING, JSON_STRING},
	[QMP_INT] = {"integer", JSON_INTEGER, JSON_INTEGER},
	[QMP_BOOL] = {"boolean", JSON_TRUE, JSON_FALSE},
	[QMP_OBJECT] = {"object", JSON_OBJECT, JSON_OBJECT},
	[QMP_ARRAY] = {"array", JSON_ARRAY, JSON_ARRAY},
};

static bool takes(const struct qmp_command *c, const char *name)
{
	const struct qmp_arg *a;

	for (a = c->args; a && a->name; a++)
		if (strcmp(a->name, name) == 0)
			return true;
	return false;
}

int qmp_check_args(const struct qmp_command *c, const json_t *args, struct err *e)
{
	const struct qmp_arg *a;
	void *i;

	for (a = c->args; a && a->name; a++) {
		const json_t *v = json_object_get(args, a->name);

		if (!v && !a->optional)
			return err_set(e, -EINVAL, "Parameter '%s' is missing", a->name);
		if (v && json_typeof(v) != kinds[a->kind].type &&
		    json_typeof(v) != kinds[a->kind].also)
			return err_set(e, -EINVAL, "Invalid parameter type for '%s', expected: %s",
				       a->name, kinds[a->kind].name);
	}
	for (i = args ? json_object_iter((json_t *)args) : NULL; i;
	     i = json_object_iter_next((json_t *)args, i)) {
		const char *name = json_object_iter_key(i);

		if (!takes(c, name))
			return err_set(e, -EINVAL, "Parameter %s is unexpected",
				       text_quote(name, strlen(name)).s);
	}
	return 0;
}

json_t *qmp_timestamp(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return json_pack("{s:I, s:I}", "seconds", (json_int_t)t.tv_sec, "microseconds",
			 (json_int_t)(t.tv_nsec / 1000));
}
