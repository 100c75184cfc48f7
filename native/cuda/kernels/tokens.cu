// The token pool, and what one decode step leaves for the next.
#include "cuda/kernels/common.cuh"

namespace deploykit::cuda {
namespace {

__global__ void read_kernel(const int32_t* pool, int64_t stride, const int32_t* row, const int32_t* index,
                            int64_t count, int32_t* out) {
  wait_prior_grid();
  allow_next_grid();
  const int64_t i = blockIdx.x * 256ll + threadIdx.x;
  if (i < count) out[i] = row[i] < 0 ? 0 : pool[row[i] * stride + index[i]];
}
__global__ void write_kernel(int32_t* pool, int64_t stride, const int32_t* row, const int32_t* index,
                             const int32_t* tokens, int64_t count) {
  wait_prior_grid();
  allow_next_grid();
  const int64_t i = blockIdx.x * 256ll + threadIdx.x;
  if (i < count && row[i] >= 0 && tokens[i] >= 0) pool[row[i] * stride + index[i]] = tokens[i];
}
__global__ void advance_kernel(const int32_t* row, int32_t* index, int32_t* position, int64_t count) {
  wait_prior_grid();
  allow_next_grid();
  const int64_t i = blockIdx.x * 256ll + threadIdx.x;
  if (i >= count || row[i] < 0) return;
  index[i] += 1;
  if (position != nullptr && position != index) position[i] += 1;
}
dim3 blocks_of(int64_t count) { return dim3(static_cast<unsigned>(ceil_div(count, 256))); }

}  // namespace

void pool_read(const int32_t* pool, int64_t pool_stride, const int32_t* row, const int32_t* index, int64_t count,
               int32_t* out, cudaStream_t stream) {
  if (count == 0) return;
  launch("pool_read", read_kernel, blocks_of(count), dim3(256), 0, stream, pool, pool_stride, row, index, count, out);
}
void pool_write(int32_t* pool, int64_t pool_stride, const int32_t* row, const int32_t* index, const int32_t* tokens,
                int64_t count, cudaStream_t stream) {
  if (count == 0) return;
  launch("pool_write", write_kernel, blocks_of(count), dim3(256), 0, stream, pool, pool_stride, row, index, tokens,
         count);
}
void advance(const int32_t* row, int32_t* index, int32_t* position, int64_t count, cudaStream_t stream) {
  if (count == 0) return;
  launch("advance", advance_kernel, blocks_of(count), dim3(256), 0, stream, row, index, position, count);
}

}  // namespace deploykit::cuda
