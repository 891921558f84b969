/* A libcuda.so.1 that runs nothing and writes down what it is asked to launch, with every byte of the parameters.

   Modules are PTX, which says how large each parameter is. `fake_taken` gives what was written since it was last
   called, a line a call; `fake_set` says which driver and GPU this is. */

#include <cuda.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODULES 1024
#define PARAMETERS 256

typedef struct {
  const char *ptx;
  unsigned long long digest;
  char name[256];
  int count, sizes[PARAMETERS];
} Module; /* a module has one function: they are the same handle */

static Module modules[MODULES];
static int loaded;
static CUcontext current;
static int driver_version = 13010, shared_optin = 232448;

static char text[1 << 20];
static size_t used;

static void note(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(text + used, sizeof text - used, format, arguments);
  va_end(arguments);
  if (length < 0 || used + length >= sizeof text)
    abort();
  used += length;
}

void fake_set(int version, int optin) { driver_version = version, shared_optin = optin; }

const char *fake_taken(void) {
  text[used] = 0;
  used = 0;
  return text;
}

static unsigned long long digest(unsigned long long seed, const void *data, size_t size) {
  const unsigned char *bytes = data; /* FNV-1a */
  for (size_t i = 0; i < size; i++)
    seed = (seed ^ bytes[i]) * 0x100000001b3ull;
  return seed;
}

/* ---- what launchers ask of the machine */

CUresult cuGetErrorString(CUresult error, const char **out) { return *out = "refused by the fake driver", CUDA_SUCCESS; }
CUresult cuGetErrorName(CUresult error, const char **out) { return *out = "FAKE", CUDA_SUCCESS; }
CUresult cuInit(unsigned int flags) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int *out) { return *out = driver_version, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *out, int ordinal) { return *out = ordinal, CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext *out) { return *out = current, CUDA_SUCCESS; }
CUresult cuCtxGetDevice(CUdevice *out) { return *out = 0, CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext context) { return current = context, CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *out, CUdevice device) {
  return *out = (CUcontext)0xC0, CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule module) { return CUDA_SUCCESS; }
CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *out) {
  return *out = CU_STREAM_CAPTURE_STATUS_NONE, CUDA_SUCCESS;
}
CUresult cuCtxGetLimit(size_t *out, CUlimit limit) { return *out = 0, CUDA_SUCCESS; }
CUresult cuCtxSetLimit(CUlimit limit, size_t value) { return CUDA_SUCCESS; }

CUresult cuDeviceGetAttribute(int *out, CUdevice_attribute attribute, CUdevice device) {
  *out = attribute == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN         ? shared_optin
         : attribute == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR ? shared_optin + 1024
                                                                                    : 32;
  return CUDA_SUCCESS;
}

CUresult cuPointerGetAttribute(void *out, CUpointer_attribute attribute, CUdeviceptr pointer) {
  return *(CUdeviceptr *)out = pointer, CUDA_SUCCESS; /* all of memory is the GPU's */
}

CUresult cuFuncGetAttribute(int *out, CUfunction_attribute attribute, CUfunction function) {
  return *out = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0, CUDA_SUCCESS;
}

/* ---- loading */

static void read_parameters(Module *module) {
  const char *at = strstr(module->ptx, ".entry"), *end = at ? strchr(at, ')') : NULL;
  while (end && (at = strstr(at, ".param")) && at < end) {
    char type[64] = "", name[256];
    at += strlen(".param");
    int size;
    if (sscanf(at, " .align %*d .b8 %255[^[][%d", name, &size) != 2) {
      sscanf(at, " .%63[a-z0-9]", type);
      size = atoi(type + 1) / 8; /* u64, f32 */
    }
    if (size <= 0 || module->count == PARAMETERS)
      abort();
    module->sizes[module->count++] = size;
  }
}

CUresult cuModuleLoadData(CUmodule *out, const void *image) {
  if (!current || loaded == MODULES)
    return CUDA_ERROR_INVALID_CONTEXT;
  Module *module = &modules[loaded++];
  module->ptx = strdup(image);
  module->digest = digest(0xcbf29ce484222325ull, image, strlen(image));
  read_parameters(module);
  return *out = (CUmodule)module, CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *out, CUmodule module, const char *name) {
  Module *found = (Module *)module;
  snprintf(found->name, sizeof found->name, "%s", name);
  note("load %s of %016llx\n", name, found->digest);
  return *out = (CUfunction)found, CUDA_SUCCESS;
}

CUresult cuFuncSetCacheConfig(CUfunction function, CUfunc_cache config) {
  note("prefer %d for %s\n", config, ((Module *)function)->name);
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
    return CUDA_ERROR_INVALID_VALUE; /* as a driver that has no others yet: Triton 3.9 then does what others always do */
  note("attribute %d of %s = %d\n", attribute, ((Module *)function)->name, value);
  return CUDA_SUCCESS;
}

/* ---- launching */

CUresult cuTensorMapEncodeTiled(CUtensorMap *out, CUtensorMapDataType type, cuuint32_t rank, void *address,
                                const cuuint64_t *sizes, const cuuint64_t *strides, const cuuint32_t *box,
                                const cuuint32_t *steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
  size_t before = used;
  note("map type %d address %p interleave %d swizzle %d promotion %d fill %d", type, address, interleave, swizzle,
       promotion, fill);
  for (cuuint32_t i = 0; i < rank; i++)
    note(", size %llu box %u step %u", (unsigned long long)sizes[i], box[i], steps[i]);
  for (cuuint32_t i = 0; i + 1 < rank; i++) /* the last one is not read */
    note(", stride %llu", (unsigned long long)strides[i]);
  /* Every word depends on every argument; the bit that old drivers set wrongly is set. */
  for (int i = 0; i < CU_TENSOR_MAP_NUM_QWORDS; i++)
    out->opaque[i] = digest(i + 1, text + before, used - before);
  out->opaque[1] |= 1ull << 21;
  note(", on %d\n", (int)((size_t)out % 128));
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra) {
  Module *module = (Module *)function;
  note("launch %s of %016llx grid %u %u %u block %u %u %u shared %u stream %p attributes %u", module->name,
       module->digest, config->gridDimX, config->gridDimY, config->gridDimZ, config->blockDimX, config->blockDimY,
       config->blockDimZ, config->sharedMemBytes, (void *)config->hStream, config->numAttrs);
  for (unsigned i = 0; i < config->numAttrs; i++) {
    note(", attribute %d ", config->attrs[i].id);
    for (size_t k = 0; k < sizeof config->attrs[i].value; k++)
      note("%02x", ((unsigned char *)&config->attrs[i].value)[k]);
  }
  for (int i = 0; i < module->count; i++) {
    note(", ");
    for (int k = 0; k < module->sizes[i]; k++)
      note("%02x", ((unsigned char *)parameters[i])[k]);
    if (module->sizes[i] == sizeof(CUtensorMap))
      note(" on %d", (int)((size_t)parameters[i] % 64));
  }
  note("\n");
  return extra ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                        unsigned bz, unsigned shared, CUstream stream, void **parameters, void **extra) {
  CUlaunchConfig config = {gx, gy, gz, bx, by, bz, shared, stream, NULL, 0};
  return cuLaunchKernelEx(&config, function, parameters, extra);
}

CUresult cuOccupancyMaxActiveClusters(int *out, CUfunction function, const CUlaunchConfig *config) {
  return CUDA_ERROR_NOT_SUPPORTED; /* asked for clusters only */
}
