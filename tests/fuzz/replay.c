/*
 * A fuzz target over inputs that are there, once each and in order of their names: the corpus of
 * what was ever found, without libFuzzer and so in every build. Output is TAP, for Meson.
 * usage: replay_TARGET FILE|FOLDER...
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned int n_replayed;

static void die(const char *path)
{
	printf("Bail out! %s: %s\n", path, strerror(errno));
	exit(1);
}

/* From a block of exactly its size, so that a sanitizer sees what is read behind it. */
static void replay_file(const char *path, size_t size)
{
	uint8_t *data = malloc(size ? size : 1);
	FILE *f = fopen(path, "re");

	if (!data || !f || fread(data, 1, size, f) != size)
		die(path);
	fclose(f);
	printf("# %s\n", path); /* the last line, where it crashes */
	LLVMFuzzerTestOneInput(data, size);
	printf("ok %u - %s\n", ++n_replayed, path);
	free(data);
}

static void replay(const char *path)
{
	struct dirent **found;
	struct stat st;
	int i, n;

	if (stat(path, &st) < 0)
		die(path);
	if (!S_ISDIR(st.st_mode)) {
		replay_file(path, (size_t)st.st_size);
		return;
	}
	n = scandir(path, &found, NULL, alphasort);
	if (n < 0)
		die(path);
	for (i = 0; i < n; i++) {
		char below[4096];

		snprintf(below, sizeof(below), "%s/%s", path, found[i]->d_name);
		if (found[i]->d_name[0] != '.')
			replay(below);
		free(found[i]);
	}
	free(found);
}

int main(int argc, char **argv)
{
	int i;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (i = 1; i < argc; i++)
		replay(argv[i]);
	printf("1..%u\n", n_replayed);
	return n_replayed ? 0 : 1;
}
