/* Kernels in PTX, carried out by the processor: enough of it for small kernels and for all that is
 * added to kernels here. Blocks are stepped by whoever launches them. */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct ptx_module;
struct ptx_kernel;
struct ptx_block;

/* Null, with the reason on stderr, where the text has what is not known here. */
struct ptx_module *ptx_load(const char *text);
struct ptx_kernel *ptx_kernel(struct ptx_module *module, const char *name);
void *ptx_global(struct ptx_module *module, const char *name, size_t *bytes);
/* 0 when there are fewer parameters. */
size_t ptx_values_bytes(const struct ptx_kernel *kernel);
int ptx_parameter(const struct ptx_kernel *kernel, size_t number, size_t *at, size_t *bytes);

struct ptx_block *ptx_begin(const struct ptx_kernel *kernel, const unsigned grid[6], unsigned shared,
                            const void *values, uint32_t number);
enum { PTX_ENDED, PTX_ASLEEP };
/* Run until all of its threads have ended, or all others sleep until `*until_ns`. */
int ptx_run(struct ptx_block *block, uint64_t *until_ns);
void ptx_free(struct ptx_block *block);
