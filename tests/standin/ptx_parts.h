/* What a kernel is made of, between the reader and the runner. */
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "ptx.h"

enum { PARTS = 8, OPERANDS = 6 };
enum { DYNAMIC = 1 << 16 }; /* where shared memory of the launch begins */
enum { REGISTER, NUMBER, SPECIAL, PARAMETER, SHARED, LABEL };

struct place { struct place *next; char *name; size_t at, bytes; };
struct label { char *name; unsigned at; };
struct operand { int kind, memory; uint64_t value; long long offset; char *label; };
struct instruction {
    char *words, *part[PARTS];
    unsigned parts, count, bytes;
    int guard, inverted, is_signed, is_float;
    struct operand operand[OPERANDS];
};
struct ptx_kernel {
    struct ptx_kernel *next;
    struct ptx_module *module;
    char *name, **names;
    struct place *parameters, *shared;
    size_t values_bytes, shared_bytes;
    struct instruction *code;
    struct label *labels;
    unsigned length, registers, label_count;
};
struct ptx_module {
    struct ptx_kernel *kernels;
    struct place *shared, *globals;
    size_t shared_bytes, global_bytes;
    unsigned char *memory;
};
