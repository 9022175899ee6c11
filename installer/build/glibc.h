/* Included before every file of llama.cpp, so that what is built on a newer system also runs on glibc 2.36 (Debian 12).
   glibc 2.38 brought new names for strtol and its kin, which read binary numbers in C23, and a new version of fmod. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <features.h>
#undef __GLIBC_USE_C2X_STRTOL
#define __GLIBC_USE_C2X_STRTOL 0
#undef __GLIBC_USE_C23_STRTOL
#define __GLIBC_USE_C23_STRTOL 0
#ifndef __ASSEMBLER__
__asm__(".symver fmod,fmod@GLIBC_2.2.5");
#endif
