// Into and out of the packed 4-bit layout: repacking of AWQ and GPTQ tensors, dequantization for a library GEMM.
#include "cuda/kernels/w4.cuh"

namespace deploykit::cuda {
namespace {

struct RepackArgs {
  const uint32_t* qweight;
  const uint32_t* qzeros;
  const uint16_t* scales;
  uint32_t* data;
  uint32_t* params;
  int64_t rows, k;     // of the source
  int64_t first_half;  // where the source's 8-row group 0 goes, in halves of a tile; group h goes to first + h * step
  int64_t step;
  int64_t tile0, tiles;  // tiles that receive something
  int32_t group, zero_offset;
  bool gptq;
};

// The source's 8-row group that goes to half `half` of `tile`, or -1.
__device__ __forceinline__ int64_t source_group(const RepackArgs& a, int64_t tile, int half) {
  const int64_t place = 2 * tile + half - a.first_half;
  if (place < 0 || place % a.step != 0) return -1;
  const int64_t h = place / a.step;
  return h * 8 < a.rows ? h : -1;
}

__device__ __forceinline__ uint32_t source_nibble(const RepackArgs& a, int64_t h, int e, int64_t k) {
  if (a.gptq) return (a.qweight[(k / 8) * a.rows + h * 8 + e] >> (4 * (k % 8))) & 15u;
  // AutoAWQ's order in a word: elements 0, 2, 4, 6, 1, 3, 5, 7
  return (a.qweight[k * (a.rows / 8) + h] >> (4 * ((e & 1) * 4 + e / 2))) & 15u;
}

// A warp for each (tile, chunk); 8 consecutive tiles a block, so that they share the source's sectors.
__global__ void __launch_bounds__(256) repack_data(const RepackArgs a) {
  wait_prior_grid();
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  const int64_t tile = a.tile0 + static_cast<int64_t>(blockIdx.x) * 8 + threadIdx.x / 32;
  if (tile >= a.tile0 + a.tiles) return;
  const int64_t chunks = a.k / 64;
  for (int64_t c = blockIdx.y; c < chunks; c += gridDim.y) {
    uint32_t words[4] = {0, 0, 0, 0}, mask = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t h = source_group(a, tile, half);
      if (h < 0) continue;
      mask |= half == 0 ? 0x0f0f0f0fu : 0xf0f0f0f0u;
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        // j = 4s + i: inputs 2t, 2t + 1, 2t + 8, 2t + 9 of step s are nibbles 0, 4, 2, 6 (+ half)
        const int place = (j & 1) * 4 + (j & 2) + half;
        words[j / 4] |= source_nibble(a, h, r, c * 64 + j / 4 * 16 + 2 * t + (j & 1) + (j & 2) * 4) << (4 * place);
      }
    }
    if (mask == 0) continue;
    uint4* out = reinterpret_cast<uint4*>(a.data) + (tile * chunks + c) * 32 + lane;
    uint4 v = make_uint4(words[0], words[1], words[2], words[3]);
    if (mask != 0xffffffffu) {
      const uint4 old = *out;
      v.x |= old.x & ~mask, v.y |= old.y & ~mask, v.z |= old.z & ~mask, v.w |= old.w & ~mask;
    }
    *out = v;
  }
}

__global__ void __launch_bounds__(256) repack_params(const RepackArgs a) {
  wait_prior_grid();
  const int64_t groups = a.k / a.group;
  const int64_t total = a.tiles * groups * 16;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; i < total;
       i += static_cast<int64_t>(gridDim.x) * 256) {
    const int half = static_cast<int>(i % 2), e = static_cast<int>(i / 2 % 8);
    const int64_t g = i / 16 % groups, tile = a.tile0 + i / 16 / groups;
    const int64_t h = source_group(a, tile, half);
    if (h < 0) continue;
    const uint32_t word = a.qzeros[g * (a.rows / 8) + h];
    const int place = a.gptq ? e : (e & 1) * 4 + e / 2;
    const uint32_t zero = ((word >> (4 * place)) & 15u) + static_cast<uint32_t>(a.zero_offset);
    a.params[((tile * groups + g) * 8 + e) * 2 + half] = a.scales[g * a.rows + h * 8 + e] | (zero << 16);
  }
}

template <class T>
__global__ void __launch_bounds__(256)
    dequantize_kernel(const uint4* __restrict__ data, const uint32_t* __restrict__ params, int64_t k, int group,
                      int64_t tile0, int64_t tiles, T* out) {
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  const int64_t chunks = k / 64, groups = k / group;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * 8, total = tiles * chunks;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * 8 + threadIdx.x / 32;
  bool waited = false;
  for (int64_t i = first; i < total; i += warps) {
    const int64_t tile = i / chunks, c = i % chunks;
    const uint4 q = load_stream16(data + ((tile0 + tile) * chunks + c) * 32 + lane);
    const uint32_t* p = params + (((tile0 + tile) * groups + (c * 64 + t * 16) / group) * 8 + r) * 2;
    const uint32_t p_lo = p[0], p_hi = p[1];
    const uint32_t zero_lo = zero_pair<T>(p_lo), zero_hi = zero_pair<T>(p_hi);
    const float s_lo = scale_of(p_lo), s_hi = scale_of(p_hi);
    uint32_t words[4] = {q.x, q.y, q.z, q.w};
    exchange_words(words, t);  // now the quad's words of step t: inputs 16t .. 16t + 15
    uint32_t lo[8], hi[8];
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      uint32_t v[4];
      unpack_word<T>(words[s], zero_lo, zero_hi, v);
#pragma unroll
      for (int i2 = 0; i2 < 2; ++i2) {
        const float2 a = Num<T>::to_float2(v[2 * i2]), b = Num<T>::to_float2(v[2 * i2 + 1]);
        lo[4 * i2 + s] = Num<T>::pack(a.x * s_lo, a.y * s_lo);
        hi[4 * i2 + s] = Num<T>::pack(b.x * s_hi, b.y * s_hi);
      }
    }
    if (!waited) {
      wait_prior_grid();
      allow_next_grid();
    }
    waited = true;
    uint4* row_lo = reinterpret_cast<uint4*>(out + (tile * 16 + r) * k + c * 64 + t * 16);
    uint4* row_hi = reinterpret_cast<uint4*>(out + (tile * 16 + r + 8) * k + c * 64 + t * 16);
    row_lo[0] = make_uint4(lo[0], lo[1], lo[2], lo[3]);
    row_lo[1] = make_uint4(lo[4], lo[5], lo[6], lo[7]);
    row_hi[0] = make_uint4(hi[0], hi[1], hi[2], hi[3]);
    row_hi[1] = make_uint4(hi[4], hi[5], hi[6], hi[7]);
  }
  if (!waited) wait_prior_grid();
}

}  // namespace

int64_t w4_data_bytes(int64_t n, int64_t k) { return n * k / 2; }
int64_t w4_param_bytes(int64_t n, int64_t k, int32_t group) { return n * (k / group) * 4; }

void w4_repack(const W4Source& source, const W4Weight& dst, int64_t row_offset, RowMap map, cudaStream_t stream) {
  const char* name = "w4_repack";
  require_w4(name, dst);
  require(source.format == WeightFormat::awq || source.format == WeightFormat::gptq, name, "the source is AWQ or GPTQ");
  require(source.rows >= 8 && source.rows % 8 == 0, name, "rows % 8 == 0");
  RepackArgs a = {};
  a.qweight = reinterpret_cast<const uint32_t*>(source.qweight);
  a.qzeros = reinterpret_cast<const uint32_t*>(source.qzeros);
  a.scales = static_cast<const uint16_t*>(source.scales);
  a.data = static_cast<uint32_t*>(const_cast<void*>(dst.data));
  a.params = const_cast<uint32_t*>(dst.params);
  a.rows = source.rows;
  a.k = dst.k;
  a.group = dst.group;
  a.zero_offset = source.zero_offset;
  a.gptq = source.format == WeightFormat::gptq;
  if (map == RowMap::plain) {
    require(row_offset >= 0 && row_offset % 16 == 0 && row_offset + source.rows <= dst.n, name,
            "row_offset % 16 == 0 and the rows lie inside the matrix");
    a.first_half = row_offset / 8;
    a.step = 1;
    a.tile0 = row_offset / 16;
    a.tiles = ceil_div(source.rows, 16);
  } else {
    require(row_offset == 0 && 2 * source.rows == dst.n, name, "gate and up have half of the matrix's rows each");
    a.first_half = map == RowMap::gate ? 0 : 1;
    a.step = 2;
    a.tile0 = 0;
    a.tiles = source.rows / 8;
  }
  const int64_t chunks = dst.k / 64;
  const dim3 grid(static_cast<unsigned>(ceil_div(a.tiles, 8)), static_cast<unsigned>(chunks < 65535 ? chunks : 65535));
  launch(name, repack_data, grid, dim3(256), 0, stream, a);
  const int64_t blocks = ceil_div(a.tiles * (dst.k / dst.group) * 16, 256);
  launch(name, repack_params, dim3(static_cast<unsigned>(blocks < 65535 ? blocks : 65535)), dim3(256), 0, stream, a);
}

void w4_dequantize(DType dtype, const W4Weight& w, int64_t row0, int64_t rows, void* out, cudaStream_t stream) {
  const char* name = "w4_dequantize";
  require_w4(name, w);
  require(row0 >= 0 && row0 % 16 == 0 && rows >= 16 && rows % 16 == 0 && row0 + rows <= w.n, name,
          "row0 and rows are multiples of 16 inside the matrix");
  const int64_t blocks = ceil_div(rows / 16 * (w.k / 64), 8 * 4);
  const dim3 grid(static_cast<unsigned>(blocks < 1 << 20 ? blocks : 1 << 20));
  const uint4* data = static_cast<const uint4*>(w.data);
  if (dtype == DType::f16) {
    launch(name, dequantize_kernel<__half>, grid, dim3(256), 0, stream, data, w.params, w.k, w.group, row0 / 16,
           rows / 16, static_cast<__half*>(out));
  } else {
    require(dtype == DType::bf16, name, "dtype is f16 or bf16");
    launch(name, dequantize_kernel<__nv_bfloat16>, grid, dim3(256), 0, stream, data, w.params, w.k, w.group, row0 / 16,
           rows / 16, static_cast<__nv_bfloat16*>(out));
  }
}

}  // namespace deploykit::cuda
