#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <pthread.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/loop.h"

struct fixture {
	struct loop loop;
	struct loop_call call;
	pthread_t loop_thread;
	int sum, last;
	bool close_first;
};

static int add_one(void *arg)
{
	struct fixture *f = arg;

	assert_true(pthread_equal(pthread_self(), f->loop_thread));
	return ++f->sum;
}

static int stop(void *arg)
{
	struct fixture *f = arg;

	loop_call_close(&f->call);
	loop_stop(&f->loop);
	return 0;
}

static void *caller(void *arg)
{
	struct fixture *f = arg;
	int i;

	for (i = 0; i < 1000; i++)
		f->last = loop_call(&f->call, add_one, f);
	assert_int_equal(loop_call(&f->call, stop, f), 0);
	assert_int_equal(loop_call(&f->call, add_one, f), -ECANCELED);
	return NULL;
}

static void test_runs_on_the_loop(void **state)
{
	struct fixture f = {0};
	pthread_t thread;

	(void)state;
	assert_int_equal(loop_init(&f.loop), 0);
	assert_int_equal(loop_call_init(&f.call, &f.loop), 0);
	f.loop_thread = pthread_self();
	assert_int_equal(pthread_create(&thread, NULL, caller, &f), 0);
	assert_int_equal(loop_run(&f.loop), 0);
	pthread_join(thread, NULL);
	assert_int_equal(f.sum, 1000);
	assert_int_equal(f.last, 1000);
	loop_call_fini(&f.call);
	loop_fini(&f.loop);
}

static void *one_of_two(void *arg)
{
	struct fixture *f = arg;
	int i, before = 0;

	for (i = 0; i < 5000; i++) {
		const int now = loop_call(&f->call, add_one, f);

		assert_true(now > before); /* its own result, not the other thread's */
		before = now;
	}
	return NULL;
}

static void *two_callers(void *arg)
{
	struct fixture *f = arg;
	pthread_t a, b;

	assert_int_equal(pthread_create(&a, NULL, one_of_two, f), 0);
	assert_int_equal(pthread_create(&b, NULL, one_of_two, f), 0);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	assert_int_equal(loop_call(&f->call, stop, f), 0);
	return NULL;
}

static void test_two_threads_at_once(void **state)
{
	struct fixture f = {0};
	pthread_t thread;

	(void)state;
	assert_int_equal(loop_init(&f.loop), 0);
	assert_int_equal(loop_call_init(&f.call, &f.loop), 0);
	f.loop_thread = pthread_self();
	assert_int_equal(pthread_create(&thread, NULL, two_callers, &f), 0);
	assert_int_equal(loop_run(&f.loop), 0);
	pthread_join(thread, NULL);
	assert_int_equal(f.sum, 10000);
	loop_call_fini(&f.call);
	loop_fini(&f.loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_runs_on_the_loop),
		cmocka_unit_test(test_two_threads_at_once),
	};

	return cmocka_run_group_tests_name("loop_call", tests, NULL, NULL);
}
